"""Confidence intervals of scores and paired tests of differences, from stored statistics."""

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from lmrl.display.cards import better, card
from lmrl.display.wording import counted, direction, p_value, with_interval
from lmrl.utils import check_at_least

from .scores import Score, mean_score
from .statistics import SEED, Array, bootstrap_values, pool, swapped_values

SIGNIFICANCE_LEVEL = 0.05


@dataclass(frozen=True)
class Interval:
    """A mean or corpus score with the ends of its confidence interval; NaN if unknown, as with fewer than two rows."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def to_json(self) -> dict[str, float | None]:
        """Returns value and ends by name, ready for JSON: `None` in place of NaN."""
        return {name: None if math.isnan(number) else number for name, number in vars(self).items()}


@dataclass(frozen=True)
class Difference:
    """
    The difference between two checkpoints in a metric, with its confidence interval and p-value.

    Args:
        effect (`float`):
            The score minus the baseline's, over the rows to which the metric applies in both.
        low, high (`float`):
            Ends of the interval of the paired bootstrap; NaN if unknown: with fewer than two rows, or for a metric
            that is not made of a sum over rows.
        p_value (`float`):
            p-value of approximate randomization in (0, 1]; NaN in the same cases.
        p_corrected (`float`):
            The p-value corrected by [`holm`] for all comparisons made together; for a single one, the p-value itself.
            NaN for an exploratory metric.
        rows (`int`):
            Number of rows that were resampled, 0 if the metric is not made of a sum over rows.
        primary (`bool`):
            Whether the metric is one of those to test; otherwise it is exploratory: it has an interval, but neither a
            corrected p-value nor a star.
    """

    effect: float
    low: float = math.nan
    high: float = math.nan
    p_value: float = math.nan
    p_corrected: float = math.nan
    rows: int = 0
    primary: bool = True

    @property
    def significant(self) -> bool:
        """Whether the corrected p-value is below 0.05; `False` if it is unknown."""
        return self.p_corrected < SIGNIFICANCE_LEVEL

    @property
    def interval(self) -> tuple[float, float, float]:
        """The effect and the ends of its interval."""
        return self.effect, self.low, self.high

    def _repr_html_(self) -> str:
        p = f", p {p_value(self.p_corrected)}" if self.primary and not math.isnan(self.p_corrected) else ""
        return card("Difference", lead=f"{difference_text(self)}{p}, {counted(self.rows, 'row')}")


Columns: TypeAlias = Mapping[str, Mapping[str, Score]]
Compared: TypeAlias = Mapping[str, Mapping[str, Difference]]
Pairs: TypeAlias = Mapping[tuple[str, str], Mapping[str, Difference]]


class Comparisons(dict[str, dict[str, Difference]]):
    """
    The differences from a baseline: `[label][metric]`, for each other checkpoint; a notebook shows them as a table.

    Args:
        found (`dict` of `dict` of [`Difference`]):
            The differences.
        columns (`dict` of `dict` of [`Score`]):
            The scores that were compared, the baseline's first.
    """

    def __init__(self, found: Compared, columns: Columns) -> None:
        super().__init__({label: dict(differences) for label, differences in found.items()})
        self.columns = columns

    def __repr__(self) -> str:
        tested = [
            f"{label}: {name} {difference_text(each)}"
            for label, found in self.items()
            for name, each in found.items()
            if each.primary
        ]
        return f"{type(self).__name__}({', '.join(tested)})"

    def _repr_html_(self) -> str:
        if not self:
            return card(type(self).__name__, lead="There is no checkpoint beside the baseline.")
        baseline, *others = self.columns
        heads = [part for label in others for part in (label, f"{label} − {baseline}", "p (Holm)")]
        lines = [["metric", baseline, *heads]]
        tested = [name for found in self.values() for name, each in found.items() if each.primary]
        for name in dict.fromkeys([*tested, *(name for scores in self.columns.values() for name in scores)]):
            lines.append(self._line(name, is_tested=name in tested))
        has_exploratory = any(not each.primary for found in self.values() for each in found.values())
        note = star_note(self.values(), has_exploratory)
        note = f"95 % bootstrap intervals. ▲ better, ▼ worse: {note.removeprefix('* ')}."
        return card(f"{' and '.join(others)} compared with {baseline}", tables={"": [*lines, [note]]})

    def _line(self, name: str, is_tested: bool) -> list[str]:
        """Returns the cells of a metric."""
        scores = [columns.get(name) for columns in self.columns.values()]
        higher = next(score.higher_is_better for score in scores if score is not None)
        cells = [score_text(scores[0])]
        for label, score in zip(list(self.columns)[1:], scores[1:], strict=True):
            difference = self[label].get(name)
            is_better = None if higher is None or difference is None else (difference.effect > 0) == higher
            p = p_value(difference.p_corrected) if difference else ""
            cells += [score_text(score), better(difference_text(difference), is_better), p]
        return [f"{name} {direction(higher)}{'' if is_tested else ' (exploratory)'}", *cells]


def bootstrap_interval(
    score: Score | Iterable[float], *, samples: int = 1000, confidence: float = 0.95, seed: int = SEED
) -> Interval:
    """
    Returns the value of a score with its percentile bootstrap interval; its ends are NaN if the metric applies to
    fewer than two rows, or the score cannot be resampled.

    Each draw takes as many rows as there are, with replacement, and computes the score of their summed statistics; the
    interval leaves out `(1 - confidence) / 2` of these scores at either end. "Bootstrap Methods: Another Look at the
    Jackknife" (Efron, 1979, https://projecteuclid.org/euclid.aos/1176344552).

    Args:
        score ([`Score`] or list or array of `float`):
            The score, or the values whose mean it is. Rows must be independent ([`per_prompt`] makes them so).
        samples (`int`, *optional*, defaults to `1000`):
            Number of draws.
        confidence (`float`, *optional*, defaults to `0.95`):
            Share of the draws inside the interval, in (0, 1).
        seed (`int`, *optional*, defaults to `12345`):
            Seed of the draws. The default is sacrebleu's, and gives the same draws.

    Raises:
        `ValueError`: if an argument is out of its range.
    """
    check_at_least(1, samples=samples)
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must be in (0, 1), got {confidence}. Write 0.95 for 95%.")
    score = score if isinstance(score, Score) else mean_score("", "", score, None)
    kept = applicable_rows(score)
    if score.pooling is None or kept.sum() < 2:
        return Interval(score.value)
    rows = np.asarray(score.statistics, dtype=np.float64)[kept]
    values = bootstrap_values(score.pooling, rows, samples=samples, seed=seed)
    return Interval(score.value, *_percentiles(values, confidence))


def compare(before: Score, after: Score, *, samples: int = 1000, trials: int = 10_000, seed: int = SEED) -> Difference:
    """
    Returns the difference of two scores of a metric, with its 95% interval by the paired bootstrap and its p-value by
    approximate randomization.

    For the interval, both checkpoints are scored on the same draws of rows, so that what makes a row hard for both
    cancels: "Statistical Significance Tests for Machine Translation Evaluation" (Koehn, 2004,
    https://aclanthology.org/W04-3250).

    The p-value is the probability of a difference at least as large, of either sign, by chance alone. If the
    checkpoints did not differ, the outputs of a row could be swapped. With `d` the difference and `d_i` that of trial
    i of R, each row swapped with probability 1/2, `p = (1 + #{i: |d_i| >= |d|}) / (R + 1)`: "On Some Pitfalls in
    Automatic Evaluation and Significance Testing for MT" (Riezler and Maxwell, 2005,
    https://aclanthology.org/W05-0908). It is off by about `sqrt(p (1 - p) / R)`. sacrebleu's `--paired-ar` makes the
    same trials, but counts `>`: equal outputs, which have p = 1 here, then have the smallest p there is.

    Args:
        before, after ([`Score`]):
            Scores of the baseline and of the other checkpoint, on the same rows in the same order. A row to which the
            metric does not apply in one of them is left out of both.
        samples, trials (`int`, *optional*, default to `1000` and `10_000`):
            Draws of the bootstrap, and trials of the randomization.
        seed (`int`, *optional*, defaults to `12345`):
            As for [`bootstrap_interval`].

    Raises:
        `ValueError`: if the scores are not of the same metric and number of rows, or an argument is out of its range.
    """
    check_at_least(1, samples=samples, trials=trials)
    if before.pooling is None or after.pooling is None:  # rows do not add up, or the file has no statistics
        return Difference(after.value - before.value)
    pooling, old, new = _paired_statistics(before, after)
    values = pool(pooling, old), pool(pooling, new)
    effect = values[1] - values[0]
    if len(old) < 2:
        return Difference(effect, rows=len(old))
    drawn_old = bootstrap_values(pooling, old, samples=samples, seed=seed)
    drawn_new = bootstrap_values(pooling, new, samples=samples, seed=seed)
    low, high = _percentiles(drawn_new - drawn_old)
    one, other = swapped_values(pooling, old, new, trials=trials, seed=seed)
    # Differences that differ by rounding alone count as equal: of the scores it may be more than of a small effect.
    rounding = 1e-9 * abs(effect) + 1e-12 * max(map(abs, values))
    extreme = int((np.abs(other - one) >= abs(effect) - rounding).sum())
    p = (extreme + 1) / (trials + 1) if math.isfinite(effect) else math.nan
    return Difference(effect, low, high, p, p, rows=len(old))


def compare_all(columns: Columns, primary: Collection[str] | None = None) -> Comparisons:
    """
    Returns the differences of each other checkpoint from the first, as `[label][metric]`.

    The p-values of the primary metrics of all checkpoints are corrected together, by [`holm`]. The other metrics are
    exploratory, and come after the primary ones.

    Args:
        columns (`dict` of `dict` of [`Score`]):
            Scores as `[label][metric]`; the first label is the baseline's.
        primary (collection of `str`, *optional*):
            Names of the metrics to test; all by default.

    Raises:
        `ValueError`: if there is no checkpoint, or a metric was computed on different numbers of rows.
    """
    if not columns:
        raise ValueError("`columns` must have at least 1 checkpoint, got 0.")
    found = compare_pairs(columns, label_pairs(columns), primary)
    return Comparisons({label: differences for (_, label), differences in found.items()}, columns)


def label_pairs(labels: Iterable[str], all_pairs: bool = False) -> list[tuple[str, str]]:
    """Returns the pairs of the first label with each other one, or all pairs, the earlier label first."""
    labels = list(labels)
    return [pair for pair in itertools.combinations(labels, 2) if all_pairs or pair[0] == labels[0]]


def compare_pairs(
    columns: Columns, pairs: Iterable[tuple[str, str]], primary: Collection[str] | None = None
) -> dict[tuple[str, str], dict[str, Difference]]:
    """
    Returns the differences of pairs of checkpoints, the second minus the first, as `[first, second][metric]`.

    The p-values of the primary metrics of all pairs are corrected together; the other arguments are those of
    [`compare_all`].
    """
    by_pair: dict[tuple[str, str], dict[str, Difference]] = {}
    for first, second in pairs:
        common = [name for name in columns[first] if name in columns[second]]
        tested = common if primary is None else [name for name in primary if name in common]
        by_pair[first, second] = {
            name: replace(compare(columns[first][name], columns[second][name]), primary=name in tested)
            for name in dict.fromkeys([*tested, *common])
        }
    places = [(pair, name) for pair, found in by_pair.items() for name in found if found[name].primary]
    corrected = holm([by_pair[pair][name].p_value for pair, name in places])
    p_values = dict(zip(places, corrected, strict=True))
    return {
        pair: {name: replace(each, p_corrected=p_values.get((pair, name), math.nan)) for name, each in found.items()}
        for pair, found in by_pair.items()
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """
    Returns p-values corrected for their number: if those below 0.05 are called significant, the probability of even
    one false positive among them is at most 5%.

    The k-th smallest of m becomes the largest of `min(1, (m - j + 1) p_j)` over j = 1..k. "A Simple Sequentially
    Rejective Multiple Test Procedure" (Holm, 1979, https://www.jstor.org/stable/4615733). Pass the p-values of all
    comparisons that were made, not only of those that are shown. NaN stays NaN and does not count.

    Raises:
        `ValueError`: if one is not in [0, 1].
    """
    if invalid := [p for p in p_values if p < 0 or p > 1]:
        raise ValueError(f"`p_values` must be in [0, 1], got {invalid[0]}.")
    corrected = list(p_values)
    order = sorted((i for i, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i])
    largest = 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - place) * p_values[index]))
        corrected[index] = largest
    return corrected


def interval_text(interval: Interval | None) -> str:
    """Returns a value with its interval as text, an empty string for `None`."""
    return "" if interval is None else with_interval(interval.value, interval.low, interval.high, sign="")


def score_text(score: Score | None) -> str:
    """Returns a score with its 95 % bootstrap interval as text, an empty string for `None`."""
    return "" if score is None else interval_text(bootstrap_interval(score))


def difference_text(difference: Difference | None) -> str:
    """Returns a difference with its interval and, if it is significant, `*`; an empty string for `None`."""
    if difference is None:
        return ""
    return with_interval(*difference.interval) + ("*" if difference.significant else "")


def star_note(found: Iterable[Mapping[str, Difference]], has_exploratory: bool) -> str:
    """Returns the note below a table: what a star means, and that exploratory metrics have none."""
    comparisons = sum(not math.isnan(each.p_corrected) for differences in found for each in differences.values())
    corrected = f"corrected for {counted(comparisons, 'comparison')} (Holm)"
    star = f"* p < {SIGNIFICANCE_LEVEL:g} by approximate randomization, {corrected}"
    return f"{star}; exploratory metrics are not tested" if has_exploratory else star


def _percentiles(values: Array, confidence: float = 0.95) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def applicable_rows(score: Score) -> NDArray[np.bool_]:
    """Returns a mask of the rows to which the metric applies: all of them if it has no row scores."""
    rows = [0.0] * len(score.statistics or []) if score.row_scores is None else score.row_scores
    return ~np.isnan(np.asarray(rows, dtype=np.float64))


def _paired_statistics(before: Score, after: Score) -> tuple[str, Array, Array]:
    """Returns the common pooling, and each score's statistics of the rows to which the metric applies in both."""
    if before.pooling is None or before.pooling != after.pooling:
        raise ValueError(
            f"`before` and `after` must be scores of one metric, got {before.name!r} pooled by {before.pooling!r} and "
            f"{after.name!r} by {after.pooling!r}. Evaluate both checkpoints with the same metric."
        )
    applies = [applicable_rows(before), applicable_rows(after)]
    if len(applies[0]) != len(applies[1]):
        raise ValueError(
            f"`before` and `after` must have the same rows, got {len(applies[0])} and {len(applies[1])} of "
            f"{before.name!r}. Evaluate both checkpoints on the same rows."
        )
    old, new = (np.asarray(score.statistics or np.empty((0, 1)), dtype=np.float64) for score in (before, after))
    # The trials swap the rows of both, which must weigh the same where one has more samples of a prompt.
    one, other = (len(score.sample_scores[0]) if score.sample_scores else 1 for score in (before, after))
    common = math.gcd(one, other)
    both = applies[0] & applies[1]
    return before.pooling, old[both] * (other // common), new[both] * (one // common)
