"""Means over seeds with t intervals, and differences between two configurations over seeds and rows together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import ArrayLike

from lmrl.evaluation import Difference, Score
from lmrl.evaluation.comparison import applicable_rows
from lmrl.evaluation.statistics import POOLINGS, Array

MIN_SEEDS = 3
"""Seeds that a configuration must have at least before anything is claimed of it."""

_PRECISION = 1e-15


@dataclass(frozen=True)
class Spread:
    """
    A score over seeds.

    Args:
        seeds (`int`), mean (`float`):
            Number of seeds, and the mean of their scores.
        deviation (`float`):
            Standard deviation (divided by n - 1); NaN for one seed.
        low, high (`float`):
            Ends of the 95% interval of the mean by Student's t with n - 1 degrees of freedom; NaN for one seed.
        least, greatest (`float`):
            The lowest and the highest score.
    """

    seeds: int
    mean: float
    deviation: float
    low: float
    high: float
    least: float
    greatest: float


@dataclass(frozen=True)
class SeedDifference(Difference):
    """
    The difference between two configurations in a metric, over seeds and rows together.

    Args:
        effect, low, high, p_value, p_corrected, rows, primary:
            As in [`~lmrl.evaluation.Difference`]: the difference of the means over seeds, with the interval and the
            p-value of [`compare_seeds`]. Both are NaN with fewer than 3 seeds or without sums over rows.
        welch_p, welch_corrected (`float`):
            p-value of Welch's t test of the seeds' scores, which is about these rows alone; the same corrected.
        first, second ([`Spread`]):
            The scores of the two configurations over their seeds.
    """

    welch_p: float = math.nan
    welch_corrected: float = math.nan
    first: Spread | None = None
    second: Spread | None = None


def spread(values: Sequence[float]) -> Spread:
    """Returns mean, standard deviation, t interval and extremes of the scores of at least one seed."""
    scores = np.asarray(values, dtype=np.float64)
    mean = float(scores.mean())
    deviation = float(scores.std(ddof=1)) if len(scores) > 1 else math.nan
    half = t_quantile(len(scores) - 1) * deviation / math.sqrt(len(scores)) if len(scores) > 1 else math.nan
    extremes = float(scores.min()), float(scores.max())
    return Spread(len(scores), mean, deviation, mean - half, mean + half, *extremes)


def compare_seeds(first: Sequence[Score], second: Sequence[Score]) -> SeedDifference:
    """
    Returns the difference of two configurations, the second minus the first, over their seeds and the rows together.

    The seeds of the configurations are independent, the rows are the same in all runs: seeds are nested in
    configurations and crossed with rows. With `x` the score of a row in a run, the variance of the difference of the
    two means has one part from the seeds, `V_seeds = sum over configurations of var(score of a seed) / seeds`, and one
    from the rows, `V_rows = var(difference of a row's means over seeds) / rows`. Both contain the noise of single
    texts, `V_texts`, from the residuals of seeds and rows, which counts once: the variance is `V = V_seeds + V_rows -
    V_texts`, at least either of the first two. `effect / sqrt(V)` is compared with Student's t, with Satterthwaite's
    degrees of freedom: the quasi-F of "The Language-as-Fixed-Effect Fallacy" (Clark, 1973,
    https://doi.org/10.1016/S0022-5371(73)80014-3) and "An Approximate Distribution of Estimates of Variance
    Components" (Satterthwaite, 1946, https://doi.org/10.2307/3002019).

    For infinitely many rows it is Welch's test of the seeds. Seeds are not bootstrapped: with n seeds a bootstrap has
    only (n - 1) / n of their variance, so that its intervals are too narrow for few seeds ("How Many Random Seeds?",
    Colas et al., 2018, https://arxiv.org/abs/1806.08295).

    For a score that is no mean, such as corpus BLEU, `x` is the jackknife's influence of a row: (rows - 1) times the
    change of the score when the row is left out. For a mean this is the row's value less the mean.

    Args:
        first, second (list of [`~lmrl.evaluation.Score`]):
            Scores of one metric in the runs of each configuration, on the same rows in the same order. A row to which
            the metric does not apply in one of the runs is left out of all.

    Raises:
        ValueError: If the scores have different poolings or numbers of rows.
    """
    groups = [[score.value for score in scores] for scores in (first, second)]
    are_enough = min(map(len, groups)) >= MIN_SEEDS
    welch = welch_p(*groups) if are_enough else math.nan
    spreads = [spread(values) for values in groups]
    found = SeedDifference(_effect(*groups), welch_p=welch, welch_corrected=welch, first=spreads[0], second=spreads[1])
    statistics = _statistics([*first, *second])
    if statistics is None:
        return found
    rows = statistics.shape[1]
    pooling = str(first[0].pooling)
    parts = [_influences(pooling, part) for part in (statistics[: len(first)], statistics[len(first) :])]
    effect = _effect(parts[0][0], parts[1][0])
    found = replace(found, effect=effect, rows=rows)
    if rows < 2 or not are_enough:
        return found
    variance, freedom = _variance(parts)
    half = t_quantile(freedom) * math.sqrt(variance)
    p = t_test(effect, variance, freedom)
    return replace(found, low=effect - half, high=effect + half, p_value=p, p_corrected=p)


def welch_p(first: Sequence[float], second: Sequence[float]) -> float:
    """
    Returns the two-sided p-value of the t test of two means with unequal variances: "The Generalization of 'Student's'
    Problem when Several Different Population Variances are Involved" (Welch, 1947,
    https://doi.org/10.1093/biomet/34.1-2.28). Each group needs at least 2 values.
    """
    terms = [(float(np.var(values, ddof=1)) / len(values), len(values) - 1) for values in (first, second)]
    variance = sum(part for part, _ in terms)
    return t_test(_effect(first, second), variance, satterthwaite(variance, terms))


def satterthwaite(variance: float, terms: Sequence[tuple[float, float]]) -> float:
    """Returns the degrees of freedom of a sum of variances; `terms` has each with its own. 1 if all are 0."""
    spread_of_variance = sum(part**2 / freedom for part, freedom in terms)
    return variance**2 / spread_of_variance if spread_of_variance > 0 else 1.0


def t_test(effect: float, variance: float, freedom: float) -> float:
    """Returns the two-sided p-value of an effect with this variance; if that is 0, then 1 for no effect, else 0."""
    if math.isnan(effect) or math.isnan(variance):
        return math.nan
    if variance == 0:
        return 1.0 if effect == 0 else 0.0
    return t_tails(effect / math.sqrt(variance), freedom)


def t_tails(t: float, freedom: float) -> float:
    """Returns the probability that Student's t is at least as far from 0 as `t`, on either side."""
    return _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))


@cache
def t_quantile(freedom: float, confidence: float = 0.95) -> float:
    """Returns the value `q` for which Student's t is between -q and q with probability `confidence`."""
    if math.isnan(freedom):
        return math.nan
    low = 0.0
    high = 1.0
    while t_tails(high, freedom) > 1 - confidence:
        high *= 2
    while high - low > _PRECISION * high * 4:
        middle = (low + high) / 2
        if t_tails(middle, freedom) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Returns the regularized incomplete beta function, by its continued fraction (DLMF 8.17.22)."""
    if x > (a + 1) / (a + b + 2):  # converges faster for 1 - x
        return 1.0 - _incomplete_beta(b, a, 1.0 - x)
    if x <= 0:
        return 0.0
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    # Lentz's method for 1 + d1 / (1 + d2 / (1 + ...)), from the quotients of successive numerators and denominators.
    value = 1.0
    numerator = 1.0
    denominator = 0.0
    for index in range(1, 10_000):
        m = index // 2
        if index % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        denominator = 1.0 / (1.0 + term * denominator)
        numerator = 1.0 + term / numerator
        value *= numerator * denominator
        if abs(numerator * denominator - 1.0) < _PRECISION:
            break
    return front / value


def _effect(first: ArrayLike, second: ArrayLike) -> float:
    """Returns the mean of `second` minus that of `first`; exactly 0 if all values are equal."""
    origin = np.asarray(first, dtype=np.float64)[0]
    return float(np.mean(second - origin) - np.mean(first - origin))


def _statistics(scores: Sequence[Score]) -> Array | None:
    """Returns statistics (runs, rows, k) of the rows to which the metric applies in all runs; `None` without any."""
    if any(score.pooling is None or score.statistics is None for score in scores):
        return None
    if len({(score.pooling, len(score.statistics or [])) for score in scores}) > 1:
        got = ", ".join(dict.fromkeys(f"{len(s.statistics or [])} rows by {s.pooling}" for s in scores))
        raise ValueError(f"`{scores[0].name}` must be of the same rows and pooled alike in all runs, got {got}.")
    known = np.all([applicable_rows(score) for score in scores], axis=0)
    return np.asarray([score.statistics for score in scores], dtype=np.float64)[:, known]


def _influences(pooling: str, statistics: Array) -> tuple[Array, Array]:
    """Returns the scores (seeds,) of runs with statistics (seeds, rows, k), and each row's influence (seeds, rows)."""
    rows = statistics.shape[1]
    totals = statistics.sum(axis=1)
    values = POOLINGS[pooling](totals)
    without = POOLINGS[pooling](totals[:, None] - statistics)
    return values, (rows - 1) * (values[:, None] - without)


def _variance(parts: Sequence[tuple[Array, Array]]) -> tuple[float, float]:
    """Returns the variance of the difference between two configurations, and its degrees of freedom."""
    rows = parts[0][1].shape[1]
    of_rows = float((parts[1][1].mean(axis=0) - parts[0][1].mean(axis=0)).var(ddof=1)) / rows
    of_seeds = []
    of_texts = []
    for values, moved in parts:
        seeds = len(values)
        residuals = moved - moved.mean(axis=0) - moved.mean(axis=1, keepdims=True) + moved.mean()
        freedom = (seeds - 1) * (rows - 1)
        of_seeds.append((float(values.var(ddof=1)) / seeds, seeds - 1))
        of_texts.append((float((residuals**2).sum()) / freedom / (seeds * rows), freedom))
    sums = [sum(part for part, _ in terms) for terms in (of_seeds, of_texts)]
    variance = max(sums[0] + of_rows - sums[1], sums[0], of_rows)
    return variance, satterthwaite(variance, [*of_seeds, (of_rows, rows - 1), *of_texts])
