"""Confidence intervals for rows that are not independent, by resampling groups of them."""

import math
from collections.abc import Hashable, Sequence

from .comparison import Interval


def clustered_interval(
    values: Sequence[float],
    groups: Sequence[Hashable],
    *,
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """
    Returns the mean of the values and its percentile bootstrap interval, drawn over groups.

    Groups are drawn with replacement, as many as there are, and each draw's mean is that of its rows. The errors of
    the rows of a group are correlated, and an interval that took them as independent would be too narrow:
    "Bootstrap-Based Improvements for Inference with Clustered Errors" (Cameron, Gelbach and Miller, 2008,
    https://doi.org/10.1162/rest.90.3.414). With a group for each row it is the ordinary bootstrap.

    Args:
        values (list of `float`):
            One per row.
        groups (list):
            Group of each row.
        samples (`int`, *optional*, defaults to `1000`):
            Number of draws.
        confidence (`float`, *optional*, defaults to `0.95`):
            Share of the draws inside, in (0, 1).
        seed (`int`, *optional*, defaults to `0`):
            Seed of the draws.

    Returns:
        [`Interval`]; its ends are NaN if there are less than two groups.

    Raises:
        ValueError: if there are no values, or not a group for each.
    """
    import numpy as np

    if len(values) == 0 or len(groups) != len(values):
        raise ValueError(f"`groups` must have one entry per value, at least 1, got {len(groups)} for {len(values)}.")
    index = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    member = np.array([index[group] for group in groups])
    sums, counts = np.bincount(member, values), np.bincount(member)
    mean = float(sums.sum() / counts.sum())
    if len(index) < 2:
        return Interval(mean, math.nan, math.nan)
    generator = np.random.default_rng(seed)
    draws = (generator.integers(0, len(index), len(index)) for _ in range(samples))
    tail = (1 - confidence) / 2
    low, high = np.quantile([sums[drawn].sum() / counts[drawn].sum() for drawn in draws], [tail, 1 - tail])
    return Interval(mean, float(low), float(high))


def interval_to_json(interval: Interval) -> dict[str, float | None]:
    """Returns an interval by name, ready for JSON: an unknown end is `None`."""
    low = None if math.isnan(interval.low) else interval.low
    high = None if math.isnan(interval.high) else interval.high
    return {"value": interval.value, "low": low, "high": high}


def interval_as_text(interval: dict[str, float | None]) -> str:
    """Returns an interval of [`interval_to_json`] as text; that of a single row or prompt has unknown ends."""
    if interval["low"] is None or interval["high"] is None:
        return f"{interval['value']:.4f} [no interval]"
    return f"{interval['value']:.4f} [{interval['low']:.4f}, {interval['high']:.4f}]"
