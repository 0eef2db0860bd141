"""Every metric of every checkpoint against the baseline's, corrected for how many were compared."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from .comparison import compare, holm
from .metrics import Score

Columns: TypeAlias = Mapping[str, Mapping[str, Score]]


@dataclass(frozen=True)
class Difference:
    """
    How far a metric of a checkpoint lies from the baseline's.

    Args:
        effect (`float`):
            The difference, the baseline's subtracted.
        low (`float`):
            Lower end of its interval; NaN where it is not known.
        high (`float`):
            Upper end, likewise.
        p (`float`):
            p-value of approximate randomization, corrected; NaN likewise.
    """

    effect: float
    low: float
    high: float
    p: float

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside the interval; `False` where that is not known."""
        return self.low > 0 or self.high < 0

    @property
    def interval(self) -> tuple[float, float, float]:
        """The effect and the ends of its interval."""
        return self.effect, self.low, self.high


Compared: TypeAlias = Mapping[str, Mapping[str, Difference]]


def compare_all(columns: Columns, *, confidence: float = 0.95) -> dict[str, dict[str, Difference]]:
    """
    Returns the differences from the first checkpoint, by metric, by the label of each other checkpoint.

    The p-values are corrected together, by Holm's procedure, for all metrics of all checkpoints.

    Args:
        columns (`dict` of `dict` of [`Score`]):
            Scores by metric, by the label of the checkpoint.
        confidence (`float`, *optional*, defaults to `0.95`):
            Of the intervals.

    Raises:
        `ValueError`: if there is no checkpoint, or a metric was computed on different numbers of rows.
    """
    if not columns:
        raise ValueError("There are 0 checkpoints, but a comparison needs at least 1.")
    (_, base), *others = columns.items()
    found = {
        (label, name): _difference(base[name], scores[name], confidence)
        for label, scores in others
        for name in base
        if name in scores
    }
    corrected = zip(found.items(), holm([difference.p for difference in found.values()]), strict=True)
    by_label: dict[str, dict[str, Difference]] = {label: {} for label, _ in others}
    for ((label, name), difference), p in corrected:
        by_label[label][name] = replace(difference, p=p)
    return by_label


def _difference(before: Score, after: Score, confidence: float) -> Difference:
    if before.pooling != after.pooling:  # one of them was read from a file that has no statistics
        return Difference(after.value - before.value, math.nan, math.nan, math.nan)
    found = compare(before, after, confidence=confidence)
    return Difference(found.effect, found.low, found.high, found.p_randomization)
