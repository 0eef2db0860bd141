"""From summed statistics to the score of a corpus: what makes a score one that can be resampled."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array: TypeAlias = NDArray[np.float64]

_NIST_BETA = math.log(0.5) / math.log(1.5) ** 2
_BLEU_ORDERS = 4
_NIST_ORDERS = 5
_CHRF_FACTOR = 2**2  # beta squared


def ratio(sums: Array) -> Array:
    """Returns `sums[0] / sums[1]`, NaN where both are 0: a mean of values and how many there are, or a rate."""
    return _divide(sums[..., 0], sums[..., 1], np.nan)


def bleu(sums: Array, effective_order: bool = False) -> Array:
    """
    Returns the BLEU, in [0, 100], smoothed by sacrebleu's `exp`: what [`lmrl.rewards.BLEU.statistics`] adds up to.

    Args:
        sums (`numpy.ndarray` of shape `(..., 10)`):
            Tokens, tokens of references, n-grams that match of orders 1 to 4, n-grams of orders 1 to 4.
        effective_order (`bool`, *optional*, defaults to `False`):
            Whether to leave out the orders that have no n-grams: for single sentences.

    Returns:
        `numpy.ndarray` of shape `(...)`.
    """
    tokens, reference, matches, totals = np.split(sums, [1, 2, 2 + _BLEU_ORDERS], axis=-1)
    halvings = np.where(matches > 0, 0, np.cumsum(matches == 0, axis=-1))  # the k-th order without a match: 1 / 2^k
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(np.maximum(matches, 0.5**halvings * (matches == 0)) / totals)
        penalty = np.exp(np.minimum(1 - reference / tokens, 0))[..., 0]
        counted = totals > 0
        if effective_order:
            mean = np.where(counted, logs, 0).sum(axis=-1) / counted.sum(axis=-1)
        else:
            mean = np.where(counted, logs, -np.inf).mean(axis=-1)
        return np.where(matches.any(axis=-1), 100 * penalty * np.exp(mean), 0.0)


def chrf(sums: Array) -> Array:
    """
    Returns the chrF2, in [0, 100]: what [`lmrl.rewards.ChrF.statistics`] adds up to.

    Args:
        sums (`numpy.ndarray` of shape `(..., 3 * orders)`):
            For each order the n-grams of the completions, of the references, and in both.

    Returns:
        `numpy.ndarray` of shape `(...)`.
    """
    ours, theirs, matches = (sums[..., place::3] for place in range(3))
    counted = (ours > 0) & (theirs > 0)
    orders = counted.sum(axis=-1)
    precision = _divide(np.where(counted, _divide(matches, ours, 0), 0).sum(axis=-1), orders, 0)
    recall = _divide(np.where(counted, _divide(matches, theirs, 0), 0).sum(axis=-1), orders, 0)
    return 100 * _divide((1 + _CHRF_FACTOR) * precision * recall, _CHRF_FACTOR * precision + recall, 0)


def ter(sums: Array) -> Array:
    """Returns the TER in percent of edits and mean lengths of references; 100 for edits of empty references."""
    return 100 * _divide(sums[..., 0], sums[..., 1], np.sign(sums[..., 0]))


def nist(sums: Array) -> Array:
    """Returns the NIST-5, at least 0: what [`lmrl.rewards.nist.NIST.statistics`] adds up to, of shape `(..., 11)`."""
    information, totals, reference = np.split(sums, [_NIST_ORDERS, 2 * _NIST_ORDERS], axis=-1)
    brevity = np.minimum(_divide(totals[..., 0], reference[..., 0], 0), 1)
    with np.errstate(divide="ignore"):
        penalty = np.exp(_NIST_BETA * np.log(brevity) ** 2)  # 0 where brevity is
    score: Array = penalty * _divide(information, totals, 0).sum(axis=-1)
    return score


def perplexity(sums: Array) -> Array:
    """Returns `exp(sums[0] / sums[1])` of summed -log p and numbers of tokens; NaN without tokens."""
    with np.errstate(over="ignore"):
        value: Array = np.exp(ratio(sums))
    return value


POOLINGS: dict[str, Callable[[Array], Array]] = {
    "mean": ratio,  # sum of the values of rows, number of rows that have one
    "ratio": ratio,
    "bleu": bleu,
    "chrf": chrf,
    "ter": ter,
    "nist": nist,
    "perplexity": perplexity,
}
"""What makes a score of summed statistics: functions of `(..., k)` that give `(...)`."""


def pool(pooling: str, statistics: ArrayLike) -> float:
    """
    Returns the score of a corpus from the statistics of its rows.

    Args:
        pooling (`str`):
            A key of `POOLINGS`.
        statistics (list of lists of `float`):
            Those of each row.

    Returns:
        `float`, NaN if there are no rows.
    """
    rows = np.asarray(statistics, dtype=np.float64)
    return float(POOLINGS[pooling](rows.sum(axis=0))) if len(rows) else math.nan


def _divide(numerator: Array, denominator: "Array | NDArray[np.int64]", otherwise: Any) -> Array:
    """Returns the quotient, `otherwise` where the denominator is 0."""
    filled = np.broadcast_to(np.asarray(otherwise, dtype=np.float64), np.shape(numerator)).copy()
    return np.divide(numerator, denominator, out=filled, where=np.asarray(denominator) != 0)
