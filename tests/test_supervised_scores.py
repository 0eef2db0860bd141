"""Accuracy, calibration and the length baseline of preferences, and the scores of a classifier, in closed forms."""

import json
import math
from typing import Any

import numpy as np
import pytest

from lmrl.rewards import completion_text
from lmrl.supervised import reports
from lmrl.supervised.scores import (
    calibration_bins,
    classification_scores,
    clustered_interval,
    evaluate_preferences,
    expected_calibration_error,
)


def margin(probability: float) -> float:
    """Returns the margin whose sigmoid is the probability."""
    return math.log(probability / (1 - probability))


def scores_of(margins: list[float | None], lengths: list[tuple[int, int]] | None = None) -> dict[str, Any]:
    """Returns the scores of a reward with these margins, of pairs of these lengths."""
    lengths = lengths or [(1, 1)] * len(margins)
    pairs = [
        {"prompt": str(row), "chosen": "c" * chosen, "rejected": "r" * rejected}
        for row, (chosen, rejected) in enumerate(lengths)
    ]
    return evaluate_preferences(
        lambda completions, prompts: margins if completions[0][0] == "c" else [0.0] * len(margins), pairs
    )


def test_accuracy_is_the_share_of_positive_margins_and_a_tie_is_half() -> None:
    assert scores_of([1.0, -2.0, 0.5, 0.0])["accuracy"]["value"] == 2.5 / 4


def test_with_a_group_for_each_row_the_interval_is_that_of_the_binomial() -> None:
    values = [1.0] * 640 + [0.0] * 360
    interval = clustered_interval(values, range(1000), samples=4000)
    error = 1.96 * math.sqrt(0.64 * 0.36 / 1000)
    assert (interval.low, interval.high) == pytest.approx((0.64 - error, 0.64 + error), abs=0.004)


def test_correlated_rows_make_the_interval_wider() -> None:
    """100 groups of 10 equal rows are 100 observations."""
    values = [float(group < 64) for group in range(100) for _ in range(10)]
    groups = [group for group in range(100) for _ in range(10)]
    interval = clustered_interval(values, groups, samples=4000)
    error = 1.96 * math.sqrt(0.64 * 0.36 / 100)
    assert (interval.low, interval.high) == pytest.approx((0.64 - error, 0.64 + error), abs=0.015)


def test_the_interval_of_a_single_group_is_unknown() -> None:
    interval = clustered_interval([1.0, 0.0], ["a", "a"])
    assert math.isnan(interval.low) and math.isnan(interval.high)


def test_bins_hold_the_pairs_of_their_confidence() -> None:
    margins = np.array([margin(0.55), -margin(0.55), margin(0.95), margin(0.97), -margin(0.93), margin(0.91)])
    assert calibration_bins(margins, bins=5) == [
        {"confidence": pytest.approx(0.55), "accuracy": 0.5, "count": 2},
        {"confidence": pytest.approx(0.94), "accuracy": 0.75, "count": 4},
    ]
    assert sum(each["count"] for each in calibration_bins(np.array([0.0, 1e9, -1e9]))) == 3


def test_the_calibration_error_is_the_mean_distance_weighted_by_pairs() -> None:
    bins = [
        {"confidence": 0.55, "accuracy": 0.5, "count": 2},
        {"confidence": 0.94, "accuracy": 0.75, "count": 4},
    ]
    assert expected_calibration_error(bins) == pytest.approx((2 * 0.05 + 4 * 0.19) / 6)


def test_margins_equal_to_the_true_log_odds_are_calibrated() -> None:
    generator = np.random.default_rng(0)
    sizes = generator.uniform(0, 4, 40_000)
    signs = np.where(generator.uniform(size=sizes.size) < 1 / (1 + np.exp(-sizes)), 1, -1)
    error = expected_calibration_error(calibration_bins(signs * sizes))
    assert error < 0.01
    assert expected_calibration_error(calibration_bins(signs * sizes * 5)) > 0.1


def test_longer_is_chosen_is_the_accuracy_of_length_alone() -> None:
    assert scores_of([1.0] * 4, [(5, 2), (1, 4), (3, 1), (3, 3)])["longer_is_chosen"] == 2.5 / 4


def test_a_reward_is_evaluated_on_pairs() -> None:
    def number_of_a(completions, prompts):
        return [float(text.count("a")) if text else None for text in map(completion_text, completions)]

    chat = [{"role": "assistant", "content": "aab"}]
    pairs = [
        {"prompt": "p", "chosen": "aa", "rejected": "bbb"},
        {"prompt": "p", "chosen": "b", "rejected": "aab"},
        {"prompt": [{"role": "user", "content": "q"}], "chosen": chat, "rejected": "a"},
    ]
    scores = evaluate_preferences(number_of_a, pairs)
    assert (scores["pairs"], scores["prompts"], scores["accuracy"]["value"]) == (3, 2, pytest.approx(2 / 3))
    assert (scores["longer_is_chosen"], scores["shorter_is_chosen"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert [each["count"] for each in scores["calibration"]] == [1, 2]  # margins 2, -2 and 1
    with pytest.raises(ValueError, match="`margins` must be at least 1 and finite"):
        evaluate_preferences(number_of_a, [*pairs, {"prompt": "p", "chosen": "a", "rejected": ""}])


@pytest.mark.parametrize("margins", [[math.nan], [None], [math.inf, 1.0]])
def test_margins_without_an_accuracy_raise(margins: list[float | None]) -> None:
    with pytest.raises(ValueError, match=r"`margins` must be at least 1 and finite, got \[(nan|inf)"):
        scores_of(margins)


def test_no_pairs_raise() -> None:
    with pytest.raises(ValueError, match=r"`margins` must be at least 1 and finite, got \[\]"):
        evaluate_preferences(lambda completions, prompts: [], [])


def test_a_classifier_is_scored_on_all_rows_and_on_each_label() -> None:
    # Of label 0 there are 3 rows, 3 predictions and 2 hits; of label 1 there are 1, 2 and 1; of label 2 1, 0 and 0.
    scores = classification_scores([0, 0, 1, 1, 0], [0, 0, 0, 1, 2], commonest=0)
    assert scores["accuracy"]["value"] == 3 / 5
    assert scores["macro_f1"] == pytest.approx((4 / 6 + 2 / 3 + 0) / 3)
    assert scores["commonest_label_accuracy"] == 3 / 5
    with pytest.raises(ValueError, match="`predicted` must have one entry per label, got 1 for 2"):
        classification_scores([0], [0, 1], commonest=0)


def test_of_equally_common_labels_the_first_is_taken_as_in_the_report(tmp_path, capsys):
    logits = np.array([[1.0, 0.0]] * 5)
    train_labels = [1, 0, 1, 0]
    reports._save_accuracy(str(tmp_path), logits, [1, 1, 1, 1, 0], train_labels, ["bad", "good"])
    assert json.loads((tmp_path / "scores.json").read_text())["commonest_label_accuracy"] == 1 / 5
    assert "always 'bad': 0.2000" in capsys.readouterr().out
