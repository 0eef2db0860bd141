"""Scores of reward models on held-out pairs, and of classifiers on held-out labels."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from lmrl.evaluation import Interval, Score, bootstrap_interval
from lmrl.evaluation.scores import mean_score, pooled_score
from lmrl.evaluation.statistics import Array
from lmrl.rewards import completion_text


def clustered_interval(
    values: Sequence[float], groups: Sequence[Hashable], *, samples: int = 1000, seed: int = 0
) -> Interval:
    """
    Returns the mean of values with its 95% percentile bootstrap interval over groups; its ends are NaN for one group.

    Groups are drawn with replacement, as many as there are, and each draw's mean is that of its rows. The errors of
    the rows of a group are correlated, and an interval that took them as independent would be too narrow:
    "Bootstrap-Based Improvements for Inference with Clustered Errors" (Cameron, Gelbach and Miller, 2008,
    https://doi.org/10.1162/rest.90.3.414). With a group for each row it is the ordinary bootstrap.

    Raises:
        `ValueError`: if there are no values, or not a group for each.
    """
    if len(values) == 0 or len(groups) != len(values):
        raise ValueError(f"`groups` must have one entry per value, at least 1, got {len(groups)} for {len(values)}.")
    return bootstrap_interval(clustered(mean_score("", "", values, None), groups), samples=samples, seed=seed)


def clustered(score: Score, groups: Sequence[Hashable]) -> Score:
    """Returns a score whose intervals are over groups of rows: pairs of one prompt, for example, share texts."""
    if score.statistics is None or len(set(groups)) == len(groups):
        return score
    sums: dict[Hashable, Array] = {}
    for group, statistics in zip(groups, score.statistics, strict=True):
        sums[group] = sums.get(group, np.zeros(len(statistics))) + np.array(statistics)
    pooled = [part.tolist() for part in sums.values()]
    return pooled_score(score.name, score.signature, str(score.pooling), pooled, None, score.higher_is_better)


def decided_right(margins: Array) -> Array:
    """Returns 1 for each pair with a positive margin, 0 for a negative one and 1/2 for 0."""
    return (np.sign(margins) + 1) / 2


def bins_of(confidence: Array, lowest: float, bins: int = 10) -> NDArray[np.int64]:
    """Returns the bin of each confidence, from 0 on, of `bins` of equal width from the lowest possible value to 1."""
    share = (confidence - lowest) / (1 - lowest)
    return np.clip((share * bins).astype(int), 0, bins - 1)


def calibration_bins(margins: Array, bins: int = 10) -> list[dict[str, Any]]:
    """
    Returns the mean `confidence`, the `accuracy` and the `count` of the pairs in `bins` bins of equal width of the
    confidence `sigmoid(|margin|)` in [0.5, 1], without the empty ones.
    """
    confidence = 1 / (1 + np.exp(-np.abs(margins)))
    correct = decided_right(margins)
    member = bins_of(confidence, 0.5, bins)
    inside = [member == number for number in np.unique(member)]
    return [
        {"confidence": float(confidence[i].mean()), "accuracy": float(correct[i].mean()), "count": int(i.sum())}
        for i in inside
    ]


def expected_calibration_error(bins: Sequence[Mapping[str, Any]]) -> float:
    """
    Returns `sum over bins of (n_b / n) |accuracy_b - confidence_b|`, how far accuracy is from confidence, in [0, 1].

    With 0.1, pairs whose confidence is 80 percent are decided correctly about 70 or 90 times of 100. "On Calibration
    of Modern Neural Networks" (Guo et al., 2017, https://arxiv.org/abs/1706.04599).
    """
    total = sum(each["count"] for each in bins)
    return float(sum(each["count"] / total * abs(each["accuracy"] - each["confidence"]) for each in bins))


def evaluate_preferences(
    reward: Callable[..., list[float | None]], pairs: Dataset | Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """
    Returns how well a reward separates the chosen from the rejected completion of held-out pairs, ready for JSON.

    A pair is decided right if the reward of the chosen completion is larger; a tie counts 1/2. Pairs of a prompt have
    texts in common and are not independent, so the interval is over prompts. A reward model that is no better than
    the longer, or the shorter, completion of each pair may have learned no more than length.

    Args:
        reward (`Callable`):
            A [`~lmrl.rewards.RewardModel`], or any other reward that needs no columns.
        pairs (`datasets.Dataset` or list of `dict`):
            Rows with "prompt", "chosen" and "rejected". Lengths are those of the texts in characters.

    Returns:
        `dict` with `pairs`, `prompts`, `accuracy` (value, low, high), `expected_calibration_error`,
        `longer_is_chosen`, `shorter_is_chosen`, `calibration`, a list of bins, and `margins`, the reward of the chosen
        completion minus that of the rejected one, of each pair.

    Raises:
        ValueError: if there are no pairs, or the reward does not apply to a completion.
    """
    prompts = [pair["prompt"] for pair in pairs]
    texts = [[pair[kind] for pair in pairs] for kind in ("chosen", "rejected")]
    # As a number, a missing reward is NaN.
    rewards = [np.array(reward(completions=column, prompts=prompts), dtype=np.float64) for column in texts]
    lengths = [[len(completion_text(text)) for text in column] for column in texts]
    margins = rewards[0] - rewards[1]
    if not len(margins) or not np.isfinite(margins).all():
        raise ValueError(f"`margins` must be at least 1 and finite, got {margins[:5].tolist()}.")
    prompt_keys = [repr(prompt) for prompt in prompts]
    bins = calibration_bins(margins)
    longer = float(decided_right(np.subtract(lengths[0], lengths[1])).mean())
    return {
        "pairs": len(margins),
        "prompts": len(set(prompt_keys)),
        "accuracy": clustered_interval(decided_right(margins).tolist(), prompt_keys).to_json(),
        "expected_calibration_error": expected_calibration_error(bins),
        "longer_is_chosen": longer,
        "shorter_is_chosen": 1 - longer,
        "calibration": bins,
        "margins": margins.tolist(),
    }


def classification_scores(predicted: Sequence[int], labels: Sequence[int], commonest: int) -> dict[str, Any]:
    """
    Returns `rows`, the `accuracy` (value, low, high) with a bootstrap interval, `macro_f1` and, of the commonest label
    of the training rows, `commonest_label_accuracy`. A `ValueError` if there are no rows, or the numbers differ.

    `F1_l = 2 TP_l / (2 TP_l + FP_l + FN_l)`, and macro F1 its mean over the labels that occur among the rows or the
    predictions: a rare label counts as much as a common one. All labels are indices.
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
