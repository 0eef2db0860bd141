"""Held-out evaluations of classifiers and of reward models, against numbers worked by hand."""

import math

import numpy as np
import pytest
from datasets import Dataset

from lmrl.evaluation import bootstrap_interval, compare
from lmrl.evaluation.reporting.serialization import read_json, write_json
from lmrl.supervised import evaluate_labels, evaluate_pairs


def test_a_classifier_is_compared_with_the_most_frequent_label_and_its_worst_errors_come_first(tmp_path):
    rows = Dataset.from_dict({"text": ["a", "b", "c", "d"], "label": [0, 1, 1, 0]})
    logits = np.log([[0.92, 0.08], [0.82, 0.18], [0.28, 0.72], [0.61, 0.39]])
    shown, evaluations = evaluate_labels(logits, rows, train_labels=[0, 0, 0, 1], names=["no", "yes"])
    assert shown["prompt"][:] == ["b", "d", "c", "a"]
    assert shown["references"][0] == ["yes"]
    majority, classifier = evaluations["majority"], evaluations["classifier"]
    assert [completion.text for completion in classifier.completions] == [
        *("no (82%)", "no (61%)", "yes (72%)", "no (92%)")
    ]
    assert {completion.text for completion in majority.completions} == {"no (75%)"}
    assert majority.values == pytest.approx(
        {
            "accuracy": 0.5,
            "macro_f1": (2 * 2 / (4 + 2) + 0) / 2,
            "log_loss": -(2 * math.log(0.75) + 2 * math.log(0.25)) / 4,
            "calibration_error": 0.25,
        }
    )
    # Bins of a tenth of [1/2, 1]: each confidence is alone in its own, and that of 0.82 is wrong.
    assert classifier.values == pytest.approx(
        {
            "accuracy": 0.75,
            "macro_f1": (2 * 2 / (3 + 2) + 2 * 1 / (1 + 2)) / 2,
            "log_loss": -(math.log(0.92) + math.log(0.18) + math.log(0.72) + math.log(0.61)) / 4,
            "calibration_error": (0.39 + 0.28 + 0.82 + 0.08) / 4,
        }
    )
    assert classifier.tables["Confusion"] == [
        ["true label, predicted as", "no", "yes"],
        ["no", "2", "0"],
        ["yes", "1", "1"],
    ]
    assert [line[:3] for line in classifier.tables["Calibration"][1:]] == [
        ["0.60 to 0.65", "1", "0.610"],
        ["0.70 to 0.75", "1", "0.720"],
        ["0.80 to 0.85", "1", "0.820"],
        ["0.90 to 0.95", "1", "0.920"],
    ]
    for name, score in classifier.scores.items():
        assert bootstrap_interval(score).low <= score.value
        assert compare(majority.scores[name], score).p_value > 0.05  # of four rows
    write_json(tmp_path / "classifier.json", classifier)
    assert read_json(tmp_path / "classifier.json").tables == classifier.tables


def test_labels_of_chance_have_no_calibration_error_where_confidence_is_the_share_that_is_right():
    rows = Dataset.from_dict({"text": ["a", "b", "c", "d"], "label": [0, 0, 0, 1]})
    _, evaluations = evaluate_labels(np.zeros((4, 2)), rows, train_labels=[0, 0, 0, 1], names=["no", "yes"])
    assert evaluations["majority"].values["calibration_error"] == pytest.approx(0)
    assert evaluations["classifier"].values["log_loss"] == pytest.approx(math.log(2))


def test_a_reward_model_is_compared_with_length_and_its_interval_is_over_prompts():
    pairs = [
        {"prompt": "p", "chosen": " long text", "rejected": " b"},
        {"prompt": "p", "chosen": " long text", "rejected": " c"},
        {"prompt": "q", "chosen": " d", "rejected": " text"},
    ]
    shown, evaluations = evaluate_pairs([2.0, 1.0, -1.0], Dataset.from_list(pairs))
    assert shown["prompt"][:] == ["q", "p", "p"]  # the worst first
    assert [completion.text for completion in evaluations["reward_model"].completions] == [
        *("text (by 1.00)", "long text (by 1.00)", "long text (by 2.00)")
    ]
    assert [completion.text for completion in evaluations["length"].completions] == ["text", "long text", "long text"]
    scores = evaluations["reward_model"].scores
    assert scores["accuracy"].value == pytest.approx(2 / 3)
    assert sorted(scores["accuracy"].statistics) == [[0.0, 1.0], [2.0, 2.0]]
    right, wrong = math.log(1 + math.exp(-1)), math.log(1 + math.exp(1))
    assert scores["log_loss"].value == pytest.approx((math.log(1 + math.exp(-2)) + right + wrong) / 3)
    # The two of margin 1 share a bin; one of them is wrong.
    one, two = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-2))
    assert scores["calibration_error"].value == pytest.approx((abs(1 - 2 * one) + (1 - two)) / 3)
    assert evaluations["length"].values == {"accuracy": pytest.approx(2 / 3)}


def test_the_shorter_completion_is_the_rule_where_it_is_right_more_often():
    pairs = [{"prompt": p, "chosen": [message("a")], "rejected": [message("a b")]} for p in "pqr"]
    shown, evaluations = evaluate_pairs([1.0, -2.0, 0.5], Dataset.from_list(pairs))
    assert evaluations["length"].values == {"accuracy": 1.0}
    assert shown["references"][0] == ["a"]


def message(text):
    return {"role": "assistant", "content": text}
