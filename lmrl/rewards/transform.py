"""Rewards made of another: gated, cut off at a threshold, clipped, scaled. A row that has `None` keeps it."""

import math
from collections.abc import Callable
from typing import Any

from .combine import Combined, as_text


def _check_finite(kind: str, **numbers: float) -> None:
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise ValueError(f"`{name}` of `{kind}` must be finite, got {number}.")


class Gate(Combined):
    """
    Returns a reward where another one reaches a bound, and `otherwise` where it does not.

    Where the gate is shut the reward is not looked at, also not for `None`. A row is `None` where the gate itself is:
    whether the reward counts is not known.

    Args:
        reward (`Callable`):
            The reward that counts behind the gate.
        when (`Callable`):
            The reward that opens the gate.
        at_least (`float`, *optional*, defaults to `0.5`):
            What `when` must reach.
        otherwise (`float`, *optional*, defaults to `0.0`):
            Reward of a completion before a shut gate.
        name (`str`, *optional*):
            Name under which trainers log it. Defaults to both, such as `bleu_if_format`.

    Raises:
        ValueError: if a reward cannot be called, if both have the same name, or if a number is not finite.

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
        _check_finite("Gate", at_least=at_least, otherwise=otherwise)
        self.at_least = at_least
        self.otherwise = float(otherwise)
        super().__init__((reward, when), name)

    @property
    def default_name(self) -> str:
        """The reward and its gate."""
        return "_if_".join(self.names)

    @property
    def signature(self) -> str:
        """The signatures of both, the bound and what is given below it."""
        reward, when = self.signatures
        return f"({reward} if {when} >= {as_text(self.at_least)} else {as_text(self.otherwise)})"

    def combined_range(self, ranges: list[tuple[float, float]]) -> tuple[float, float]:
        """Returns the range of the reward with `otherwise` taken in."""
        low, high = ranges[0]
        return min(low, self.otherwise), max(high, self.otherwise)

    def combined(self, values: tuple[float | None, ...]) -> float | None:
        """Returns the reward of a row, or `otherwise`."""
        reward, when = values
        if when is None:
            return None
        return reward if when >= self.at_least else self.otherwise


class Threshold(Combined):
    """
    Returns 1 where a reward reaches a bound, else 0.

    Args:
        reward (`Callable`):
            Any callable that TRL takes as a reward function.
        at_least (`float`):
            The bound.
        name (`str`, *optional*):
            Name under which trainers log it. Defaults to both, such as `bleu_at_least_0.3`.

    Raises:
        ValueError: if the reward cannot be called, or if the bound is not finite.
    """

    def __init__(self, reward: Callable[..., Any], at_least: float, name: str | None = None):
        _check_finite("Threshold", at_least=at_least)
        self.at_least = at_least
        super().__init__((reward,), name)

    @property
    def default_name(self) -> str:
        """The reward and the bound."""
        return f"{self.names[0]}_at_least_{as_text(self.at_least)}"

    @property
    def signature(self) -> str:
        """The signature of the reward and the bound."""
        return f"({self.signatures[0]} >= {as_text(self.at_least)})"

    def combined_range(self, ranges: list[tuple[float, float]]) -> tuple[float, float]:
        """Returns 0 and 1."""
        return 0.0, 1.0

    def combined(self, values: tuple[float | None, ...]) -> float | None:
        """Returns 1 or 0."""
        return None if values[0] is None else float(values[0] >= self.at_least)


class Clipped(Combined):
    """
    Returns a reward held between two bounds: `min(max(reward, low), high)`.

    Args:
        reward (`Callable`):
            Any callable that TRL takes as a reward function.
        low (`float`, *optional*, defaults to `-inf`):
            Lowest result.
        high (`float`, *optional*, defaults to `inf`):
            Highest result.
        name (`str`, *optional*):
            Name under which trainers log it. Defaults to the reward's with `_clipped`.

    Raises:
        ValueError: if the reward cannot be called, or if `low` is not below `high`.
    """

    def __init__(
        self, reward: Callable[..., Any], low: float = -math.inf, high: float = math.inf, name: str | None = None
    ):
        if not low < high:
            raise ValueError(f"`low` of `Clipped` must be below `high`, got {low} and {high}.")
        self.low = float(low)
        self.high = float(high)
        super().__init__((reward,), name)

    @property
    def default_name(self) -> str:
        """The reward, clipped."""
        return f"{self.names[0]}_clipped"

    @property
    def signature(self) -> str:
        """The signature of the reward and the bounds."""
        return f"clipped({self.signatures[0]}, {as_text(self.low)}, {as_text(self.high)})"

    def combined_range(self, ranges: list[tuple[float, float]]) -> tuple[float, float]:
        """Returns the range of the reward between the bounds."""
        low, high = (min(max(end, self.low), self.high) for end in ranges[0])
        return low, high

    def combined(self, values: tuple[float | None, ...]) -> float | None:
        """Returns the reward of a row between the bounds."""
        return None if values[0] is None else min(max(values[0], self.low), self.high)


class Scaled(Combined):
    """
    Returns a reward on another scale: `scale * reward + shift`.

    Args:
        reward (`Callable`):
            Any callable that TRL takes as a reward function.
        scale (`float`, *optional*, defaults to `1.0`):
            Factor; a negative one turns a cost into a reward.
        shift (`float`, *optional*, defaults to `0.0`):
            What is added then.
        name (`str`, *optional*):
            Name under which trainers log it. Defaults to the reward's with `_scaled`.

    Raises:
        ValueError: if the reward cannot be called, if `scale` is 0, or if a number is not finite.

    Example:

    ```python
    >>> reward = 1 - Length(4)  # or Scaled(Length(4), scale=-1, shift=1)
    >>> reward(completions=["one"])
    [0.75]
    ```
    """

    def __init__(self, reward: Callable[..., Any], scale: float = 1.0, shift: float = 0.0, name: str | None = None):
        _check_finite("Scaled", scale=scale, shift=shift)
        if scale == 0:
            raise ValueError("`scale` of `Scaled` is 0, which makes every completion the same. Leave the reward out.")
        self.scale = float(scale)
        self.shift = float(shift)
        super().__init__((reward,), name)

    @property
    def default_name(self) -> str:
        """The reward, scaled."""
        return f"{self.names[0]}_scaled"

    @property
    def signature(self) -> str:
        """The signature of the reward, the factor and what is added."""
        return f"{as_text(self.scale)} * ({self.signatures[0]}) + {as_text(self.shift)}"

    def combined_range(self, ranges: list[tuple[float, float]]) -> tuple[float, float]:
        """Returns the ends of the range, scaled."""
        low, high = sorted(self.scale * end + self.shift for end in ranges[0])
        return low, high

    def combined(self, values: tuple[float | None, ...]) -> float | None:
        """Returns the reward of a row, scaled."""
        return None if values[0] is None else self.scale * values[0] + self.shift
