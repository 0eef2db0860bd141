"""Scores of a corpus from the summed statistics of its rows."""

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmrl.rewards.bleu import corpus_bleu
from lmrl.rewards.chrf import chrf_score
from lmrl.rewards.nist import nist_score
from lmrl.rewards.references import divide
from lmrl.rewards.ter import error_rate

Array: TypeAlias = NDArray[np.float64]


def ratio(sums: Array) -> Array:
    """Returns `sums[0] / sums[1]`, NaN where both are 0: a mean of values from their sum and count, or a rate."""
    return divide(sums[..., 0], sums[..., 1], np.nan)


def perplexity(sums: Array) -> Array:
    """Returns `exp(sums[0] / sums[1])` of summed -log p and numbers of tokens; NaN without tokens."""
    with np.errstate(over="ignore"):
        value: Array = np.exp(ratio(sums))
    return value


POOLINGS: dict[str, Callable[[Array], Array]] = {
    "mean": ratio,  # sum of the values of rows, number of rows that have one
    "ratio": ratio,
    "bleu": corpus_bleu,
    "chrf": lambda sums: 100 * chrf_score(sums),
    "ter": lambda sums: 100 * error_rate(sums),
    "nist": nist_score,
    "perplexity": perplexity,
}
"""Functions that make scores `(...)` of summed statistics `(..., k)`."""


def pool(pooling: str, statistics: ArrayLike) -> float:
    """Returns the score of a corpus from the statistics (rows, k) of its rows, NaN of none, by a key of `POOLINGS`."""
    rows = np.asarray(statistics, dtype=np.float64)
    return float(POOLINGS[pooling](rows.sum(axis=0))) if len(rows) else math.nan
