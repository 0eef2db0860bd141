"""How sure a score and a difference between checkpoints are: intervals and paired tests from stored statistics."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .resampling import SEED, bootstrap_values, swapped_values
from .scores import Score, mean_score
from .statistics import Array, pool


@dataclass(frozen=True)
class Interval:
    """
    A mean, a corpus score or a difference with its confidence interval.

    Args:
        value (`float`):
            The mean, score or difference itself.
        low (`float`):
            Lower end; NaN where it is not known, as for less than two rows.
        high (`float`):
            Upper end, likewise.
    """

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside: the value has a sign at this confidence. `False` for an interval not known."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Comparison:
    """
    The difference of two checkpoints in a metric, and how sure it is.

    Args:
        effect (`float`):
            Score after less score before, over the rows to which the metric applies in both.
        low (`float`):
            Lower end of its interval; NaN where it is not known: for less than two rows, or rows that do not add up.
        high (`float`):
            Upper end, likewise.
        p_bootstrap (`float`):
            Of [`paired_bootstrap`]; NaN likewise.
        p_randomization (`float`):
            Of [`approximate_randomization`]; NaN likewise.
        rows (`int`):
            The rows that were resampled, 0 where rows do not add up.
    """

    effect: float
    low: float
    high: float
    p_bootstrap: float
    p_randomization: float
    rows: int

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside the interval; `False` where that is not known."""
        return self.low > 0 or self.high < 0


def bootstrap_interval(
    score: Score | Sequence[float], *, samples: int = 1000, confidence: float = 0.95, seed: int = SEED
) -> Interval:
    """
    Returns the value of a score with its percentile bootstrap interval.

    Rows are drawn with replacement, as many as there are; each draw's statistics are summed and made a score; the
    interval leaves `(1 - confidence) / 2` of the scores on either side. "Bootstrap Methods: Another Look at the
    Jackknife" (Efron, 1979, https://projecteuclid.org/euclid.aos/1176344552).

    Args:
        score ([`Score`] or list of `float`):
            The score, or values whose mean it is; its rows are taken as independent ([`per_prompt`] makes them so).
        samples (`int`, *optional*, defaults to `1000`):
            Number of draws.
        confidence (`float`, *optional*, defaults to `0.95`):
            Share of the draws inside, in (0, 1).
        seed (`int`, *optional*, defaults to `12345`):
            Seed of the draws; sacrebleu's default, and with it sacrebleu's draws.

    Returns:
        [`Interval`]; its ends are NaN if there are less than two rows to which the metric applies, or the score cannot
        be resampled.

    Raises:
        `ValueError`: if an argument is out of its range.
    """
    _check(samples, confidence)
    score = score if isinstance(score, Score) else mean_score("", "", score, None)
    kept = _applies(score)
    if score.pooling is None or kept.sum() < 2:
        return Interval(score.value, math.nan, math.nan)
    rows = np.asarray(score.statistics, dtype=np.float64)[kept]
    return _interval(score.value, bootstrap_values(score.pooling, rows, samples=samples, seed=seed), confidence)


def paired_bootstrap(
    before: Score, after: Score, *, samples: int = 1000, confidence: float = 0.95, seed: int = SEED
) -> tuple[Interval, float]:
    """
    Returns the difference of two scores with its percentile bootstrap interval, and sacrebleu's p-value.

    Both checkpoints are scored on the same draws of rows, so that what makes a row hard for both cancels:
    "Statistical Significance Tests for Machine Translation Evaluation" (Koehn, 2004,
    https://aclanthology.org/W04-3250). With `d` the difference and `d_i` that of draw i of B, `p = (1 + #{i: |d_i| -
    mean |d_j| >= |d|}) / (B + 1)`, which is how sacrebleu's `--paired-bs` counts.

    That p-value is for comparison with sacrebleu's: as absolute values are taken first, it is nearly one of a
    one-sided test, and finds a difference at 0.05 in about one of ten comparisons where there is none.
    [`approximate_randomization`] and the interval keep to their level.

    Args:
        before ([`Score`]):
            Of the baseline.
        after ([`Score`]):
            Of the other checkpoint on the same rows in the same order.
        samples (`int`, *optional*, defaults to `1000`):
            Number of draws.
        confidence (`float`, *optional*, defaults to `0.95`):
            Share of the draws inside, in (0, 1).
        seed (`int`, *optional*, defaults to `12345`):
            Seed of the draws; with sacrebleu's default, its draws and p-values.

    Returns:
        [`Interval`] of `after - before` over the rows to which the metric applies in both, and the p-value; NaN where
        they are not known, as in [`bootstrap_interval`].

    Raises:
        `ValueError`: if the scores are not of the same metric and number of rows, or an argument is out of its range.
    """
    _check(samples, confidence)
    pooling, old, new = _shared(before, after)
    if pooling is None:
        return Interval(after.value - before.value, math.nan, math.nan), math.nan
    effect = pool(pooling, new) - pool(pooling, old)
    if len(old) < 2:
        return Interval(effect, math.nan, math.nan), math.nan
    draws = {"samples": samples, "seed": seed}
    differences = bootstrap_values(pooling, new, **draws) - bootstrap_values(pooling, old, **draws)
    sizes = np.abs(differences)
    return _interval(effect, differences, confidence), _p_value(sizes - sizes.mean(), effect)


def approximate_randomization(before: Score, after: Score, *, trials: int = 10_000, seed: int = SEED) -> float:
    """
    Returns the p-value of a difference of two scores: how often chance alone makes one as large, of either sign.

    If the checkpoints did not differ, the outputs of a row could be swapped. With `d` the difference and `d_i` that of
    trial i of R, each row swapped with probability 1/2, `p = (1 + #{i: |d_i| >= |d|}) / (R + 1)`. "On Some Pitfalls in
    Automatic Evaluation and Significance Testing for MT" (Riezler and Maxwell, 2005,
    https://aclanthology.org/W05-0908). sacrebleu's `--paired-ar` makes the same trials, but counts `>`: equal outputs,
    which have p = 1 here, are then as significant as can be.

    Args:
        before ([`Score`]):
            Of the baseline.
        after ([`Score`]):
            Of the other checkpoint on the same rows in the same order.
        trials (`int`, *optional*, defaults to `10_000`):
            Number of trials. A p-value is off by about `sqrt(p (1 - p) / trials)`.
        seed (`int`, *optional*, defaults to `12345`):
            Seed of the swaps; with sacrebleu's default, its swaps.

    Returns:
        `float` in (0, 1]; NaN where it is not known, as in [`bootstrap_interval`].

    Raises:
        `ValueError`: if the scores are not of the same metric and number of rows, or `trials` is less than 1.
    """
    _check(trials)
    pooling, old, new = _shared(before, after)
    if pooling is None or len(old) < 2:
        return math.nan
    one, other = swapped_values(pooling, old, new, trials=trials, seed=seed)
    return _p_value(np.abs(other - one), pool(pooling, new) - pool(pooling, old))


def compare(
    before: Score,
    after: Score,
    *,
    samples: int = 1000,
    trials: int = 10_000,
    confidence: float = 0.95,
    seed: int = SEED,
) -> Comparison:
    """
    Returns the difference of two scores of a metric with its interval and both p-values.

    Rows to which the metric does not apply in either checkpoint are left out of both.

    Args:
        before ([`Score`]):
            Of the baseline.
        after ([`Score`]):
            Of the other checkpoint on the same rows in the same order.
        samples (`int`, *optional*, defaults to `1000`):
            Draws of [`paired_bootstrap`].
        trials (`int`, *optional*, defaults to `10_000`):
            Trials of [`approximate_randomization`].
        confidence (`float`, *optional*, defaults to `0.95`):
            Of the interval.
        seed (`int`, *optional*, defaults to `12345`):
            Of draws and trials.

    Returns:
        [`Comparison`].

    Raises:
        `ValueError`: if the scores are not of the same metric and number of rows, or an argument is out of its range.
    """
    interval, p_bootstrap = paired_bootstrap(before, after, samples=samples, confidence=confidence, seed=seed)
    p_randomization = approximate_randomization(before, after, trials=trials, seed=seed)
    rows = len(_shared(before, after)[1])
    return Comparison(interval.value, interval.low, interval.high, p_bootstrap, p_randomization, rows)


def holm(p_values: Sequence[float]) -> list[float]:
    """
    Returns p-values corrected for their number: what is below 0.05 is so with at most 5% risk of any false find.

    The k-th smallest of m becomes the largest of `min(1, (m - j + 1) p_j)` over j = 1..k. "A Simple Sequentially
    Rejective Multiple Test Procedure" (Holm, 1979, https://www.jstor.org/stable/4615733).

    Args:
        p_values (list of `float`):
            Of all comparisons that were made, not only of those that are shown. NaN stays NaN and does not count.

    Returns:
        list of `float`, in the order given.

    Raises:
        `ValueError`: if one is not in [0, 1].
    """
    if wrong := [p for p in p_values if p < 0 or p > 1]:
        raise ValueError(f"A p-value must be in [0, 1], got {wrong[0]}.")
    corrected = list(p_values)
    order = sorted((i for i, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i])
    largest = 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - place) * p_values[index]))
        corrected[index] = largest
    return corrected


def _interval(value: float, values: Array, confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def _p_value(sizes: Array, effect: float) -> float:
    # Scores that differ by rounding alone count as equal.
    extreme = int((sizes >= abs(effect) * (1 - 1e-9)).sum())
    return math.nan if math.isnan(effect) else (extreme + 1) / (len(sizes) + 1)


def _applies(score: Score) -> NDArray[np.bool_]:
    """Returns which rows have a score; where none has one of its own, all count."""
    rows = [0.0] * len(score.statistics or []) if score.row_scores is None else score.row_scores
    return ~np.isnan(np.asarray(rows, dtype=np.float64))


def _shared(before: Score, after: Score) -> tuple[str | None, Array, Array]:
    """Returns how both scores are pooled, `None` if one of them is not, and their statistics on the rows of both."""
    if before.pooling is None or after.pooling is None:
        return None, np.empty((0, 1)), np.empty((0, 1))
    if before.pooling != after.pooling:
        raise ValueError(
            f"{before.name!r} is pooled by {before.pooling!r} and {after.name!r} by {after.pooling!r}, but only "
            "scores of one metric can be compared. Evaluate both checkpoints with the same metric."
        )
    here, there = _applies(before), _applies(after)
    if len(here) != len(there):
        raise ValueError(
            f"{before.name!r} has {len(here)} rows before and {len(there)} after, but a comparison needs the same "
            "rows. Evaluate both checkpoints on the same rows."
        )
    both = here & there
    old, new = (np.asarray(score.statistics or np.empty((0, 1)), dtype=np.float64) for score in (before, after))
    return before.pooling, old[both], new[both]


def _check(samples: int, confidence: float = 0.95) -> None:
    if samples < 1:
        raise ValueError(f"The number of samples or trials is {samples}, but must be at least 1.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, but must be between 0 and 1, 0.95 say.")
