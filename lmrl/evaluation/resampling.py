"""Scores of resampled rows: the matrix product of the counts of the drawn rows with their statistics.

The draws are those of sacrebleu's tests for the same seed, number of rows and number of samples.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .statistics import POOLINGS, Array

SEED = 12345  # sacrebleu's, unless SACREBLEU_SEED says otherwise
_CHUNK = 4_000_000  # entries of a matrix of draws, of which one is in memory at a time: 32 MB
_WORD = 32  # numpy makes booleans from words of 32 bits, and a call begins with a new word


def bootstrap_values(pooling: str, statistics: Array, *, samples: int, seed: int = SEED) -> Array:
    """
    Returns the scores of `samples` draws of rows with replacement, each of as many rows as there are.

    Args:
        pooling (`str`):
            A key of [`lmrl.evaluation.statistics.POOLINGS`].
        statistics (`numpy.ndarray` of shape `(rows, k)`):
            What each row adds to the sums.
        samples (`int`):
            Number of draws.
        seed (`int`, *optional*, defaults to `12345`):
            Seed of the draws.

    Returns:
        `numpy.ndarray` of shape `(samples,)`.
    """
    rows = len(statistics)
    generator = np.random.default_rng(seed)
    sums = []
    for count in _chunks(samples, rows):
        drawn = generator.integers(0, rows, size=(count, rows))
        drawn += rows * np.arange(count)[:, None]  # so that one count serves all draws
        times = np.bincount(drawn.ravel(), minlength=count * rows).reshape(count, rows)
        sums.append(times.astype(np.float64) @ statistics)
    return POOLINGS[pooling](np.concatenate(sums))


def swapped_values(pooling: str, before: Array, after: Array, *, trials: int, seed: int = SEED) -> tuple[Array, Array]:
    """
    Returns the scores of two systems in `trials` trials, in each of which every row is swapped with probability 1/2.

    Args:
        pooling (`str`):
            A key of [`lmrl.evaluation.statistics.POOLINGS`].
        before (`numpy.ndarray` of shape `(rows, k)`):
            What each row adds to the sums of one system.
        after (`numpy.ndarray` of shape `(rows, k)`):
            The same of the other.
        trials (`int`):
            Number of trials.
        seed (`int`, *optional*, defaults to `12345`):
            Seed of the swaps.

    Returns:
        two `numpy.ndarray` of shape `(trials,)`.
    """
    generator = np.random.default_rng(seed)
    total, difference = (before + after).sum(axis=0), before - after
    kept: list[NDArray[np.float64]] = []
    for count in _chunks(trials, len(before), multiple=_WORD):
        stays = generator.integers(2, size=(count, len(before)), dtype=np.bool_)
        kept.append(stays.astype(np.float64) @ difference)
    one = after.sum(axis=0) + np.concatenate(kept)
    return POOLINGS[pooling](one), POOLINGS[pooling](total - one)


def _chunks(samples: int, rows: int, multiple: int = 1) -> Iterator[int]:
    size = max(_CHUNK // rows // multiple, 1) * multiple
    for start in range(0, samples, size):
        yield min(size, samples - start)
