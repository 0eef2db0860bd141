"""Rewards made of other rewards: the least of several, a gate, a threshold, bounds."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from lmrl.utils import check_finite, name_of

from .algebra import Combined, Values, unless_none
from .base import as_text, range_of, signature_of


class Minimum(Combined):
    """
    Returns the least of other rewards: only a completion that is good in every respect is good.

    A row is `None` when any component is `None`, which might have been the least.

    Args:
        rewards (`Iterable[Callable]`):
            Components, on scales that can be compared.
    """

    def __init__(self, rewards: Iterable[Callable[..., Any]], name: str | None = None):
        parts = list(rewards)
        ranges = list(map(range_of, parts))
        super().__init__(
            partial(unless_none, min),
            parts,
            f"minimum_of_{'_and_'.join(map(name_of, parts))}" if name is None else name,
            (min((low for low, _ in ranges), default=0.0), min((high for _, high in ranges), default=0.0)),
            f"minimum({', '.join(map(signature_of, parts))})",
        )


class Gate(Combined):
    """
    Returns a reward where another one reaches a bound, and `otherwise` where it does not.

    Where the gate is shut the reward has no effect, even if it is `None`. A row is `None` where `when` is `None`:
    whether the gate is open is not known.

    Args:
        reward (`Callable`):
            The reward that counts where the gate is open.
        when (`Callable`):
            The reward that opens the gate.
        at_least (`float`, *optional*, defaults to `0.5`):
            Least value of `when` that opens the gate.
        otherwise (`float`, *optional*, defaults to `0.0`):
            Reward of a completion whose gate is shut.

    Example:

    ```python
    >>> reward = Gate(Length(4), when=ExactMatch())
    >>> reward(completions=["one two", "one two"], references=["one two", "two"])
    [0.5, 0.0]
    ```
    """

    def __init__(
        self,
        reward: Callable[..., Any],
        when: Callable[..., Any],
        at_least: float = 0.5,
        otherwise: float = 0.0,
        name: str | None = None,
    ):
        check_finite(at_least=at_least, otherwise=otherwise)
        low, high = range_of(reward)
        super().__init__(
            partial(_gated, at_least, float(otherwise)),
            [reward, when],
            f"{name_of(reward)}_if_{name_of(when)}" if name is None else name,
            (min(low, float(otherwise)), max(high, float(otherwise))),
            f"({signature_of(reward)} if {signature_of(when)} >= {as_text(at_least)} else {as_text(otherwise)})",
        )


class Threshold(Combined):
    """
    Returns 1 where a reward reaches a bound, else 0.

    Args:
        at_least (`float`):
            The bound.
    """

    def __init__(self, reward: Callable[..., Any], at_least: float, name: str | None = None):
        check_finite(at_least=at_least)
        super().__init__(
            partial(unless_none, partial(_reaches, at_least)),
            [reward],
            f"{name_of(reward)}_at_least_{as_text(at_least)}" if name is None else name,
            (0.0, 1.0),
            f"({signature_of(reward)} >= {as_text(at_least)})",
        )


class Clipped(Combined):
    """
    Returns a reward between two bounds: `min(max(reward, low), high)`.

    Args:
        low (`float`, *optional*, defaults to `-inf`):
            Lowest result, below `high`.
        high (`float`, *optional*, defaults to `inf`):
            Highest result.
    """

    def __init__(
        self, reward: Callable[..., Any], low: float = -math.inf, high: float = math.inf, name: str | None = None
    ):
        if not low < high:
            raise ValueError(f"`low` must be below `high`, got {low} and {high}.")
        lowest, highest = (min(max(end, float(low)), float(high)) for end in range_of(reward))
        super().__init__(
            partial(unless_none, partial(_clip, float(low), float(high))),
            [reward],
            f"{name_of(reward)}_clipped" if name is None else name,
            (lowest, highest),
            f"clipped({signature_of(reward)}, {as_text(low)}, {as_text(high)})",
        )


def _gated(at_least: float, otherwise: float, values: Values) -> float | None:
    reward, when = values
    if when is None:
        return None
    return reward if when >= at_least else otherwise


def _reaches(at_least: float, values: Sequence[float]) -> float:
    return float(values[0] >= at_least)


def _clip(low: float, high: float, values: Sequence[float]) -> float:
    return min(max(values[0], low), high)
