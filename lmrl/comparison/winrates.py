"""How often one system's texts score better than another's on the same prompts, with an exact sign test."""

import math
from dataclasses import dataclass

import numpy as np

from lmrl.display.cards import better, card
from lmrl.display.wording import p_value
from lmrl.evaluation import Interval, Score, bootstrap_interval
from lmrl.evaluation.comparison import SIGNIFICANCE_LEVEL, interval_text
from lmrl.utils import check_at_least

# Scores with a smaller relative difference are equal up to rounding: most models compute in float32.
ROUNDING = 1e-6


@dataclass(frozen=True)
class WinRate:
    """
    The win rate of one system over another on the same prompts, by one score.

    Args:
        by (`str`):
            Name of the score.
        wins, losses, ties (`int`):
            Prompts for which the system wins more than half of the pairs of texts, loses more than half, or neither.
        rate ([`~lmrl.evaluation.Interval`]):
            Mean over prompts of the share of pairs that it wins, a tie counting as half a win, with the 95% bootstrap
            interval over prompts. With one text per prompt it is `(wins + ties / 2) / prompts`.
        p_value (`float`):
            p-value of the exact sign test of wins against losses; NaN without prompts.
        p_corrected (`float`):
            The p-value corrected by [`~lmrl.evaluation.holm`] for all win rates of a report; for a single one the
            p-value itself.
    """

    by: str
    wins: int
    losses: int
    ties: int
    rate: Interval
    p_value: float
    p_corrected: float

    @property
    def prompts(self) -> int:
        """Number of prompts that were compared: those for which every text of both systems has a score."""
        return self.wins + self.losses + self.ties

    @property
    def significant(self) -> bool:
        """Whether the corrected p-value is below 0.05, and rate and counts of prompts favour the same system."""
        return self.p_corrected < SIGNIFICANCE_LEVEL and (self.rate.value - 0.5) * (self.wins - self.losses) > 0

    def _repr_html_(self) -> str:
        heads = ["by", "win rate [95 % CI]", "p", "wins", "losses", "ties", "prompts"]
        rate, *others = win_cells(self)
        line = [self.by, better(rate, self.rate.value > 0.5), *others]
        return card("Win rate", tables={"": [heads, line, ["▲ and ▼ mark p below 0.05 of the exact sign test."]]})


def win_cells(found: WinRate) -> list[str]:
    """Returns the cells of a win rate in a table: the rate, with a star if it is significant, p, and the counts."""
    rate = interval_text(found.rate) + ("*" if found.significant else "")
    return [rate, p_value(found.p_corrected), *map(str, (found.wins, found.losses, found.ties, found.prompts))]


def win_rate(before: Score, after: Score, *, tolerance: float = 0.0) -> WinRate:
    """
    Returns how often the texts of one system score better than those of another one on the same prompts.

    Each text is scored by itself, so that the order of the two cannot matter, as it does if a model reads both. A
    prompt with n texts of one system and m of the other counts with the share of the n * m pairs that are won, a tie
    as half a win: the probability that a text of the one is better than a text of the other.

    The interval resamples prompts. The sign test compares the number of prompts with more pairs won than lost to that
    with more lost than won, and leaves out the others: "The Statistical Sign Test" (Dixon and Mood, 1946,
    https://doi.org/10.1080/01621459.1946.10501898).

    Args:
        before, after ([`~lmrl.evaluation.Score`]):
            Scores of the baseline and of the other system, by one metric or reward, on the same rows in the same
            order. Prompts with a text that has no score are left out. If lower is better, the lower score wins.
        tolerance (`float`, *optional*, defaults to `0.0`):
            Largest difference of two scores that counts as a tie, at least 0. Scores that differ by less than a
            millionth always tie: a model gives equal texts such scores when it reads them in different batches.

    Raises:
        ValueError: If a score has no values per row or no better direction, the numbers of rows differ, or the
            tolerance is negative.
    """
    check_at_least(0, tolerance=tolerance)
    sign = check_scores_rows(before)
    check_scores_rows(after)
    old_rows = values_by_prompt(before)
    new_rows = values_by_prompt(after)
    if len(old_rows) != len(new_rows):
        raise ValueError(
            f"`before` and `after` must have the same rows, got {len(old_rows)} and {len(new_rows)} of "
            f"{before.name!r}. Evaluate both on the same rows."
        )
    shares = []
    counts = {1: 0, 0: 0, -1: 0}
    for old, new in zip(old_rows, new_rows, strict=True):
        if np.isnan(old).any() or np.isnan(new).any():
            continue
        others = sign * np.array(old)[:, None]
        own = sign * np.array(new)[None, :]
        equal = np.isclose(own, others, rtol=ROUNDING, atol=tolerance)
        won = int((~equal & (own > others)).sum())
        lost = int((~equal & (others > own)).sum())
        pairs = len(old) * len(new)
        shares.append((won + (pairs - won - lost) / 2) / pairs)
        counts[(won > lost) - (won < lost)] += 1
    if not shares:
        return WinRate(before.name, 0, 0, 0, Interval(math.nan), math.nan, math.nan)
    p = sign_test(counts[1], counts[-1])
    return WinRate(before.name, counts[1], counts[-1], counts[0], bootstrap_interval(shares), p, p)


def sign_test(wins: int, losses: int) -> float:
    """
    Returns the two-sided p-value of the exact sign test: the probability of counts at least as uneven if wins and
    losses are equally likely, `min(1, 2 P(X <= min(wins, losses)))` with X binomial over wins + losses draws.
    """
    draws = wins + losses
    term = 1  # binomial coefficient (draws, i), from i = 0
    total = 1
    for i in range(min(wins, losses)):
        term = term * (draws - i) // (i + 1)
        total += term
    return min(1.0, 2 * total / 2**draws)


def values_by_prompt(score: Score) -> list[list[float]]:
    """Returns the values of each prompt's samples, or of its single text."""
    return score.sample_scores or [[value] for value in score.row_scores or []]


def check_scores_rows(score: Score) -> int:
    """
    Returns 1 if higher is better for a score, -1 if lower is.

    Raises:
        ValueError: If it has no values for single texts, or no better direction.
    """
    if score.row_scores is None:
        raise ValueError(f"`{score.name}` must have a value of each text to be compared by, got one of all texts.")
    if score.higher_is_better is None:
        raise ValueError(f"`{score.name}` must be a score of which more or less is better, got one of neither.")
    return 1 if score.higher_is_better else -1
