"""How sure a difference between checkpoints is: bootstrap intervals over rows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Draws held in memory at a time: 32 MB of indices.
_CHUNK = 4_000_000


@dataclass(frozen=True)
class Interval:
    """
    A mean with its confidence interval.

    Args:
        mean (`float`):
            The mean over the rows.
        low (`float`):
            Lower end.
        high (`float`):
            Upper end.
    """

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside: the difference has a sign at this confidence."""
        return self.low > 0 or self.high < 0


def bootstrap_interval(
    values: Sequence[float], *, samples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """
    Returns the mean of the values and its percentile bootstrap interval.

    The means of `samples` draws of `len(values)` rows with replacement; the interval leaves `(1 - confidence) / 2` of
    them on either side. "Bootstrap Methods: Another Look at the Jackknife" (Efron, 1979,
    https://projecteuclid.org/euclid.aos/1176344552).

    Args:
        values (list of `float`):
            One per row; rows are taken as independent.
        samples (`int`, *optional*, defaults to `1000`):
            Number of draws.
        confidence (`float`, *optional*, defaults to `0.95`):
            Share of the draws inside, in (0, 1).
        seed (`int`, *optional*, defaults to `0`):
            Seed of the draws.

    Returns:
        [`Interval`]; of one row it has no width, which says nothing about how sure it is.

    Raises:
        `ValueError`: if there are no values, one of them is not finite, or an argument is out of its range.
    """
    import numpy as np

    _check(values, samples, confidence)
    rows = np.asarray(values, dtype=np.float64)
    tail = (1 - confidence) / 2
    low, high = np.quantile(_resampled_means(rows, samples, seed), [tail, 1 - tail])
    return Interval(float(rows.mean()), float(low), float(high))


def paired_interval(
    before: Sequence[float], after: Sequence[float], *, samples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """
    Returns the mean of `after - before` over the rows and its bootstrap interval.

    Rows are drawn in pairs, so that what makes a row hard for both checkpoints cancels: "Statistical Significance
    Tests for Machine Translation Evaluation" (Koehn, 2004, https://aclanthology.org/W04-3250), here of a mean over
    rows.

    Args:
        before (list of `float`):
            Row scores of the baseline.
        after (list of `float`):
            Row scores of the other checkpoint on the same rows in the same order.
        samples (`int`, *optional*, defaults to `1000`):
            Number of draws.
        confidence (`float`, *optional*, defaults to `0.95`):
            Share of the draws inside, in (0, 1).
        seed (`int`, *optional*, defaults to `0`):
            Seed of the draws.

    Returns:
        [`Interval`] of the difference.

    Raises:
        `ValueError`: if the numbers of rows differ, or as [`bootstrap_interval`] does.
    """
    if len(before) != len(after):
        raise ValueError(
            f"There are {len(before)} row scores before and {len(after)} after, but a paired comparison needs the "
            "same rows. Evaluate both checkpoints on the same rows."
        )
    differences = [new - old for old, new in zip(before, after, strict=True)]
    return bootstrap_interval(differences, samples=samples, confidence=confidence, seed=seed)


def _resampled_means(rows: "NDArray[np.float64]", samples: int, seed: int) -> "NDArray[np.float64]":
    import numpy as np

    generator = np.random.default_rng(seed)
    chunk = max(1, _CHUNK // len(rows))
    means = []
    for start in range(0, samples, chunk):
        drawn = generator.integers(0, len(rows), size=(min(chunk, samples - start), len(rows)))
        means.append(rows[drawn].mean(axis=1))
    return np.concatenate(means)


def _check(values: Sequence[float], samples: int, confidence: float) -> None:
    if len(values) == 0:
        raise ValueError("There are 0 row scores, but an interval needs at least 1.")
    wrong = next((row for row, value in enumerate(values) if not math.isfinite(value)), None)
    if wrong is not None:
        raise ValueError(f"Row {wrong} is {values[wrong]}, but must be finite. Leave out rows that have no score.")
    if samples < 1:
        raise ValueError(f"samples is {samples}, but must be at least 1.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, but must be between 0 and 1, 0.95 say.")
