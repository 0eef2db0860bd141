"""Scores of a corpus from the summed statistics of its rows, and of resampled rows.

The draws are those of sacrebleu's tests for the same seed, number of rows and number of samples.
"""

import math
from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmrl.rewards.bleu import corpus_bleu
from lmrl.rewards.chrf import chrf_score
from lmrl.rewards.corpus import nist_score
from lmrl.rewards.references import divide
from lmrl.rewards.ter import error_rate

Array: TypeAlias = NDArray[np.float64]

SEED = 12345  # sacrebleu's default
_CHUNK = 4_000_000  # most entries of the matrix of draws in memory at a time: 32 MB
_WORD = 32  # numpy draws booleans from 32-bit words, a new one in each call: chunks must end with a word


def ratio(sums: Array) -> Array:
    """Returns `sums[0] / sums[1]`, NaN where `sums[1]` is 0: a mean of values from their sum and count, or a rate."""
    return divide(sums[..., 0], sums[..., 1], np.nan)


def perplexity(sums: Array) -> Array:
    """Returns `exp(sums[0] / sums[1])` for the sum of -log p and the number of tokens; NaN without tokens."""
    with np.errstate(over="ignore"):
        value: Array = np.exp(ratio(sums))
    return value


def macro_f1(sums: Array) -> Array:
    """Returns the mean over labels of F1, `sums[label, 0] / sums[label, 1]`: 2 TP over predicted plus true rows."""
    pairs = sums.reshape(*sums.shape[:-1], -1, 2)
    value: Array = np.nanmean(divide(pairs[..., 0], pairs[..., 1], np.nan), axis=-1)
    return value


def calibration_error(sums: Array) -> Array:
    """Returns `sum over bins of |correct - confidence| / n`; `sums` has the difference in each bin, and n last."""
    return divide(np.abs(sums[..., :-1]).sum(axis=-1), sums[..., -1], np.nan)


POOLINGS: dict[str, Callable[[Array], Array]] = {
    "mean": ratio,  # sum of the values of rows, number of rows that have one
    "ratio": ratio,
    "bleu": corpus_bleu,
    "chrf": lambda sums: 100 * chrf_score(sums),
    "ter": lambda sums: 100 * error_rate(sums),
    "nist": nist_score,
    "perplexity": perplexity,
    "macro_f1": macro_f1,
    "calibration_error": calibration_error,
}
"""Functions that make scores `(...)` of summed statistics `(..., k)`."""


def pool(pooling: str, statistics: ArrayLike) -> float:
    """Returns a corpus's score from the statistics (rows, k) of its rows, NaN if none, by a key of `POOLINGS`."""
    rows = np.asarray(statistics, dtype=np.float64)
    return float(POOLINGS[pooling](rows.sum(axis=0))) if len(rows) else math.nan


def bootstrap_values(pooling: str, statistics: Array, *, samples: int, seed: int = SEED) -> Array:
    """Returns the scores (samples,) of draws, with replacement, of as many rows as `statistics` (rows, k) has."""
    rows = len(statistics)
    generator = np.random.default_rng(seed)
    sums = []
    for count in _chunks(samples, rows):
        drawn = generator.integers(0, rows, size=(count, rows))
        drawn += rows * np.arange(count)[:, None]  # so that one bincount serves all draws
        times = np.bincount(drawn.ravel(), minlength=count * rows).reshape(count, rows)
        sums.append(times.astype(np.float64) @ statistics)
    return POOLINGS[pooling](np.concatenate(sums))


def swapped_values(pooling: str, before: Array, after: Array, *, trials: int, seed: int = SEED) -> tuple[Array, Array]:
    """
    Returns the scores (trials,) of two systems with statistics (rows, k). In each trial, every row is swapped between
    the systems with probability 1/2.
    """
    generator = np.random.default_rng(seed)
    total = (before + after).sum(axis=0)
    difference = before - after
    kept: list[Array] = []
    for count in _chunks(trials, len(before), multiple=_WORD):
        stays = generator.integers(2, size=(count, len(before)), dtype=np.bool_)
        kept.append(stays.astype(np.float64) @ difference)
    one = after.sum(axis=0) + np.concatenate(kept)
    return POOLINGS[pooling](one), POOLINGS[pooling](total - one)


def _chunks(samples: int, rows: int, multiple: int = 1) -> Iterator[int]:
    size = max(_CHUNK // rows // multiple, 1) * multiple
    for start in range(0, samples, size):
        yield min(size, samples - start)
