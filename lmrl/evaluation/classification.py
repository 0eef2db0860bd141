"""Scores of a classifier."""

from collections.abc import Sequence
from typing import Any

from .comparison import clustered_interval


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
