"""Scores of reward models on held-out pairs, and of classifiers on held-out labels."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lmrl.rewards import completion_text
from lmrl.utils import check_at_least

from .comparison import Interval, clustered_interval
from .statistics import Array

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class CalibrationBin:
    """Pairs of similar confidence: mean of `sigmoid(|margin|)` in [0.5, 1], share with the right sign, number."""

    confidence: float
    accuracy: float
    count: int


def preference_accuracy(margins: Sequence[float], prompts: Sequence[Hashable]) -> Interval:
    """
    Returns the share of the pairs whose margin is positive, one of 0 counted 1/2, with its 95% interval over prompts.

    A margin is the reward of the chosen completion minus that of the rejected one. Pairs of the same prompt have texts
    in common and are not independent: [`clustered_interval`].

    Raises:
        ValueError: if there are no pairs, a margin is not finite, or the lengths differ.
    """
    return clustered_interval(_correct(_checked(margins)).tolist(), prompts)


def calibration_bins(margins: Sequence[float], bins: int = 10) -> list[CalibrationBin]:
    """
    Returns confidence and accuracy of the pairs in `bins` bins of equal width of the confidence `sigmoid(|margin|)` in
    [0.5, 1], without the empty ones.

    Raises:
        ValueError: if there are no pairs, a margin is not finite, or `bins` is less than 1.
    """
    check_at_least(1, bins=bins)
    values = _checked(margins)
    confidence = 1 / (1 + np.exp(-np.abs(values)))
    correct = _correct(values)
    member = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    inside = [member == number for number in range(bins) if (member == number).any()]
    return [CalibrationBin(float(confidence[i].mean()), float(correct[i].mean()), int(i.sum())) for i in inside]


def expected_calibration_error(bins: Sequence[CalibrationBin]) -> float:
    """
    Returns `sum over bins of (n_b / n) |accuracy_b - confidence_b|`, how far accuracy is from confidence, in [0, 1].

    With 0.1, pairs whose confidence is 80 percent are decided correctly about 70 or 90 times of 100. "On Calibration
    of Modern Neural Networks" (Guo et al., 2017, https://arxiv.org/abs/1706.04599).
    """
    total = sum(each.count for each in bins)
    return sum(each.count / total * abs(each.accuracy - each.confidence) for each in bins)


def longer_is_chosen(chosen_lengths: Sequence[int], rejected_lengths: Sequence[int]) -> float:
    """
    Returns the accuracy of always preferring the longer completion of a pair, a tie counted 1/2, in [0, 1].

    1 minus it is the accuracy of always preferring the shorter one. A reward model that is no better than either may
    have learned no more than length. Lengths have any unit.

    Raises:
        ValueError: if there are no pairs, or the numbers differ.
    """
    differences = [float(c - r) for c, r in zip(chosen_lengths, rejected_lengths, strict=True)]
    return float(_correct(_checked(differences)).mean())


def evaluate_preferences(
    reward: Callable[..., list[float | None]], pairs: "Dataset | Sequence[Mapping[str, Any]]"
) -> dict[str, Any]:
    """
    Returns how well a reward separates the chosen from the rejected completion of held-out pairs, ready for JSON.

    Args:
        reward (`Callable`):
            A [`~lmrl.rewards.RewardModel`], or any other reward that needs no columns.
        pairs (`datasets.Dataset` or list of `dict`):
            Rows with "prompt", "chosen" and "rejected". Lengths are those of the texts in characters.

    Returns:
        `dict` with `pairs`, `prompts`, `accuracy` (value, low, high), `expected_calibration_error`,
        `longer_is_chosen`, `shorter_is_chosen` and `calibration`, a list of bins.

    Raises:
        ValueError: if there are no pairs, or the reward does not apply to a completion.
    """
    prompts = [pair["prompt"] for pair in pairs]
    rewards = {}
    lengths = {}
    for kind in ("chosen", "rejected"):
        texts = [pair[kind] for pair in pairs]
        # A reward that does not apply is NaN, which `_checked` refuses with the other margins that are not finite.
        values = reward(completions=texts, prompts=prompts)
        rewards[kind] = [math.nan if value is None else value for value in values]
        lengths[kind] = [len(completion_text(text)) for text in texts]
    margins = [chosen - rejected for chosen, rejected in zip(rewards["chosen"], rewards["rejected"], strict=True)]
    prompt_keys = [repr(prompt) for prompt in prompts]
    bins = calibration_bins(margins)
    longer = longer_is_chosen(lengths["chosen"], lengths["rejected"])
    return {
        "pairs": len(margins),
        "prompts": len(set(prompt_keys)),
        "accuracy": preference_accuracy(margins, prompt_keys).to_json(),
        "expected_calibration_error": expected_calibration_error(bins),
        "longer_is_chosen": longer,
        "shorter_is_chosen": 1 - longer,
        "calibration": [asdict(each) for each in bins],
    }


def classification_scores(predicted: Sequence[int], labels: Sequence[int], commonest: int) -> dict[str, Any]:
    """
    Returns the accuracy with its bootstrap interval, the macro F1 and the accuracy of the commonest label, by name.

    `F1_l = 2 TP_l / (2 TP_l + FP_l + FN_l)`, and macro F1 its mean over the labels that occur among the rows or the
    predictions: a rare label counts as much as a common one.

    Args:
        predicted, labels (list of `int`):
            Predicted and correct indices of labels.
        commonest (`int`):
            The commonest label of the training rows.

    Returns:
        `dict` with `rows`, `accuracy` (value, low, high), `macro_f1` and `commonest_label_accuracy`.

    Raises:
        ValueError: if there are no rows, or the numbers differ.
    """
    if len(predicted) != len(labels):
        raise ValueError(f"`predicted` must have one entry per label, got {len(predicted)} for {len(labels)}.")
    pairs = list(zip(predicted, labels, strict=True))
    correct = [float(prediction == label) for prediction, label in pairs]
    f1 = []
    for label in sorted({*predicted, *labels}):
        hits = sum(pair == (label, label) for pair in pairs)
        f1.append(2 * hits / (predicted.count(label) + labels.count(label)))
    return {
        "rows": len(pairs),
        "accuracy": clustered_interval(correct, range(len(correct))).to_json(),
        "macro_f1": sum(f1) / len(f1),
        "commonest_label_accuracy": labels.count(commonest) / len(labels),
    }


def interval_as_text(interval: dict[str, float | None]) -> str:
    """Returns an interval in the form of `Interval.to_json` as text; that of a single row or prompt has no ends."""
    if interval["low"] is None or interval["high"] is None:
        return f"{interval['value']:.4f} [no interval]"
    return f"{interval['value']:.4f} [{interval['low']:.4f}, {interval['high']:.4f}]"


def _correct(margins: Array) -> Array:
    """Returns 1 for a positive margin, 0 for a negative one and 1/2 for 0."""
    return (np.sign(margins) + 1) / 2


def _checked(margins: Sequence[float]) -> Array:
    values = np.asarray(margins, dtype=np.float64)
    if len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"`margins` must be at least 1 and finite, got {list(map(float, values[:5]))}.")
    return values
