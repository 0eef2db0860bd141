"""How often a classifier is right, on all rows and on each label."""

from collections.abc import Sequence
from typing import Any

from .clusters import clustered_interval, interval_to_json


def classification_scores(predicted: Sequence[int], labels: Sequence[int], commonest: int) -> dict[str, Any]:
    """
    Returns the accuracy with its bootstrap interval, the macro F1 and the accuracy of a constant answer, by name.

    `F1_l = 2 TP_l / (2 TP_l + FP_l + FN_l)`, and macro F1 its mean over the labels that occur among the rows or the
    predictions: as much worth to a rare label as to a common one.

    Args:
        predicted (list of `int`):
            The answers, indices of labels.
        labels (list of `int`):
            The right ones.
        commonest (`int`):
            The constant answer: the commonest label of the training rows.

    Returns:
        `dict` with `accuracy` (value, low, high), `macro_f1` and `commonest_label_accuracy`.

    Raises:
        ValueError: if there are no rows, or the numbers differ.
    """
    if len(predicted) != len(labels):
        raise ValueError(
            f"There are {len(predicted)} predictions for {len(labels)} labels, but a row has one of each."
        )
    pairs = list(zip(predicted, labels, strict=True))
    right = [float(answer == label) for answer, label in pairs]
    f1 = []
    for label in sorted({*predicted, *labels}):
        hits = sum(pair == (label, label) for pair in pairs)
        f1.append(2 * hits / (predicted.count(label) + labels.count(label)))
    return {
        "rows": len(pairs),
        "accuracy": interval_to_json(clustered_interval(right, range(len(right)))),
        "macro_f1": sum(f1) / len(f1),
        "commonest_label_accuracy": labels.count(commonest) / len(labels),
    }
