"""Rewards made of several others: their weighted sum, their product, the least of them.

Of [`Reward`] objects, `+`, `-`, `*` and `/` make the same: `0.7 * BLEU() + 0.3 * Length(20)`, `BLEU() * ExactMatch()`.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .base import Reward, call_rewards, reward_name

UNBOUNDED = (-math.inf, math.inf)


def as_text(number: float) -> str:
    """Returns a number as short as it can be written without losing a digit."""
    return f"{number:g}" if float(f"{number:g}") == number else repr(number)


class Combined(Reward):
    """
    Base of the rewards made of others.

    The components are called with all that a trainer passes, and with completions as they are: a plain function may
    read the messages of a chat. In a TRL trainer the mean of each component is logged as `{name}/{component}`. What
    the components have learned is the state of the whole.

    Args:
        rewards (`Iterable[Callable]`):
            Components: any callables that TRL takes as reward functions.
        name (`str` or `None`):
            Name under which trainers log the result; `None` says what it is made of.

    Attributes:
        components (`tuple[Callable, ...]`): the rewards.

    Raises:
        ValueError: if there is no component, if one cannot be called, or if two have the same name.
    """

    def __init__(self, rewards: Iterable[Callable[..., Any]], name: str | None):
        self.components = tuple(rewards)
        kind = type(self).__name__
        if not self.components:
            raise ValueError(f"`{kind}` needs at least one reward.")
        for reward in self.components:
            if not callable(reward):
                raise ValueError(f"`{kind}` takes callables, got {reward!r}. `make_reward` makes one of a name.")
        if len(set(self.names)) < len(self.names):
            raise ValueError(
                f"Components need distinct names, to tell their logs apart, got {self.names}: set `name=`."
            )
        columns = [column for reward in self.components for column in getattr(reward, "columns", ())]
        super().__init__(self.default_name if name is None else name, columns=tuple(dict.fromkeys(columns)))
        self.range = self.combined_range([getattr(reward, "range", UNBOUNDED) for reward in self.components])

    @property
    @abstractmethod
    def default_name(self) -> str:
        """What it is made of, in the letters that every tracker takes."""

    @abstractmethod
    def combined_range(self, ranges: list[tuple[float, float]]) -> tuple[float, float]:
        """Returns the lowest and highest result, given those of the components."""

    @abstractmethod
    def combined(self, values: tuple[float | None, ...]) -> float | None:
        """Returns the result of a row, given those of the components."""

    @property
    def names(self) -> list[str]:
        """Names of the components, in order."""
        return [reward_name(reward) for reward in self.components]

    @property
    def signatures(self) -> list[str]:
        """Signatures of the components, in order; of a plain function its name."""
        return [getattr(reward, "signature", reward_name(reward)) for reward in self.components]

    def raw(self, **inputs: Any) -> dict[str, list[float | None]]:
        """
        Returns the rewards of each component by its name; takes what a reward is called with.

        Raises:
            ValueError: if a component does not give one finite number, or `None`, per completion.
        """
        results = call_rewards(dict(zip(self.names, self.components, strict=True)), **inputs)
        for name, values in results.items():
            for row, value in enumerate(values):
                if value is not None and not math.isfinite(value):  # a bound or a minimum could hide it
                    raise ValueError(f"The reward {name!r} returned {value} for row {row}: it must be finite or None.")
        return results

    def logged(self, raw: dict[str, list[float | None]]) -> dict[str, list[float | None]]:
        """Returns the values whose means are logged, by name."""
        return raw

    def __call__(
        self, *, completions: Sequence[Any], prompts: Sequence[Any] | None = None, **columns: Any
    ) -> list[float | None]:
        inputs = {"completions": completions, **columns} | ({} if prompts is None else {"prompts": prompts})
        raw = self.raw(**inputs)
        if (log_metric := columns.get("log_metric")) is not None:
            for name, values in self.logged(raw).items():
                if known := [value for value in values if value is not None]:
                    log_metric(f"{self.__name__}/{name}", sum(known) / len(known))
        return self.batch(list(zip(*raw.values(), strict=True)), inputs)

    def batch(self, rows: list[tuple[float | None, ...]], inputs: Mapping[str, Any]) -> list[float | None]:
        """Returns the results of all rows; `inputs` is what the reward was called with."""
        return [self.combined(values) for values in rows]

    def state_dict(self) -> dict[str, Any]:
        """Returns the states of the components that have one, by name."""
        states: dict[str, Any] = {
            reward_name(reward): getattr(reward, "state_dict", dict)() for reward in self.components
        }
        return {name: state for name, state in states.items() if state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what [`state_dict`] returned."""
        components: dict[str, Any] = dict(zip(self.names, self.components, strict=True))
        if unknown := state.keys() - components.keys():
            raise ValueError(f"The state has {sorted(unknown)}, and {self.__name__!r} is made of {self.names}.")
        for name, of_component in state.items():
            components[name].load_state_dict(of_component)


class Weighted(Combined):
    """
    Returns the weighted sum of other rewards: `sum over i of w_i * reward_i`.

    A component that answers `None` for a row is left out of its sum, without scaling up the other weights; the row is
    `None` when all do. In a TRL trainer the mean of each component is logged before weighting as `{name}/{component}`,
    and after it as `{name}/{component}_weighted`.

    Args:
        rewards (`dict[Callable, float]` or list of `(Callable, float)`):
            Components with their weights. A component is any callable that TRL takes as a reward function.
        name (`str`, *optional*):
            Name under which trainers log the sum. Defaults to what is added up, such as `bleu_plus_length`.

    Attributes:
        components (`tuple[Callable, ...]`): the rewards.
        weights (`tuple[float, ...]`): their weights.

    Raises:
        ValueError: if there is no component, if two have the same name, or if a weight is not finite.

    Example:

    ```python
    >>> reward = 1.0 * ExactMatch() + 0.5 * Length(4)  # or Weighted({ExactMatch(): 1.0, Length(4): 0.5})
    >>> reward(completions=["one two"], references=["one two"])
    [1.25]
    ```
    """

    def __init__(
        self,
        rewards: Mapping[Callable[..., Any], float] | Iterable[tuple[Callable[..., Any], float]],
        name: str | None = None,
    ):
        pairs = list(rewards.items() if isinstance(rewards, Mapping) else rewards)
        for reward, weight in pairs:
            if not callable(reward) or not math.isfinite(weight):
                raise ValueError(f"`Weighted` takes callables with finite weights, got {reward!r}: {weight!r}.")
        self.weights = tuple(float(weight) for _, weight in pairs)
        super().__init__((reward for reward, _ in pairs), name)

    @property
    def default_name(self) -> str:
        """The components, by the signs of their weights; a single one says that it is weighted."""
        if len(self.names) == 1 and self.weights[0] >= 0:
            return f"weighted_{self.names[0]}"
        terms = zip(self.weights, self.names, strict=True)
        return "_".join(f"{'minus' if weight < 0 else 'plus'}_{name}" for weight, name in terms).removeprefix("plus_")

    @property
    def signature(self) -> str:
        """The signatures of the components with their weights."""
        terms = zip(self.weights, self.signatures, strict=True)
        return " + ".join(f"{as_text(weight)} * ({signature})" for weight, signature in terms)

    def combined_range(self, ranges: list[tuple[float, float]]) -> tuple[float, float]:
        """Returns the sum of the ranges, each with 0 taken in, as a component may be left out."""
        low = high = 0.0
        for weight, ends in zip(self.weights, ranges, strict=True):
            weighted = [0.0, *(weight * end for end in ends if weight != 0)]  # 0 times infinity is no number
            low, high = low + min(weighted), high + max(weighted)
        return low, high

    def logged(self, raw: dict[str, list[float | None]]) -> dict[str, list[float | None]]:
        """Returns the values of each component before and after weighting."""
        weighted = {
            f"{name}_weighted": [None if value is None else weight * value for value in values]
            for weight, (name, values) in zip(self.weights, raw.items(), strict=True)
        }
        return raw | weighted

    def combined(self, values: tuple[float | None, ...]) -> float | None:
        """Returns the sum of what is not `None`."""
        terms = [weight * value for weight, value in zip(self.weights, values, strict=True) if value is not None]
        return sum(terms) if terms else None


class Product(Combined):
    """
    Returns the product of other rewards.

    A row is `None` when any component answers `None`: to leave it out would be to take it for 1, the best that a
    factor between 0 and 1 can be.

    Args:
        rewards (`Iterable[Callable]`):
            Factors: any callables that TRL takes as reward functions.
        name (`str`, *optional*):
            Name under which trainers log it. Defaults to the factors, such as `bleu_times_length`.

    Raises:
        ValueError: if there is no component, if one cannot be called, or if two have the same name.

    Example:

    ```python
    >>> reward = ExactMatch() * Length(4)  # or Product([ExactMatch(), Length(4)])
    >>> reward(completions=["one two"], references=["one two"])
    [0.5]
    ```
    """

    def __init__(self, rewards: Iterable[Callable[..., Any]], name: str | None = None):
        super().__init__(rewards, name)

    @property
    def default_name(self) -> str:
        """The factors."""
        return "_times_".join(self.names)

    @property
    def signature(self) -> str:
        """The signatures of the factors."""
        return " * ".join(f"({signature})" for signature in self.signatures)

    def combined_range(self, ranges: list[tuple[float, float]]) -> tuple[float, float]:
        """Returns the product of the intervals."""
        low, high = 1.0, 1.0
        for ends in ranges:  # 0 times infinity is no number, and 0 times any reward is 0
            products = [one * other if one and other else 0.0 for one in (low, high) for other in ends]
            low, high = min(products), max(products)
        return low, high

    def combined(self, values: tuple[float | None, ...]) -> float | None:
        """Returns the product, or `None` if a factor is."""
        known = [value for value in values if value is not None]
        return math.prod(known) if len(known) == len(values) else None


class Minimum(Combined):
    """
    Returns the least of other rewards: only what is good in every respect is good.

    A row is `None` when any component answers `None`, which might have been the least.

    Args:
        rewards (`Iterable[Callable]`):
            Components, on scales that can be compared.
        name (`str`, *optional*):
            Name under which trainers log it. Defaults to the components, such as `minimum_of_bleu_and_length`.

    Raises:
        ValueError: if there is no component, if one cannot be called, or if two have the same name.
    """

    def __init__(self, rewards: Iterable[Callable[..., Any]], name: str | None = None):
        super().__init__(rewards, name)

    @property
    def default_name(self) -> str:
        """The components."""
        return f"minimum_of_{'_and_'.join(self.names)}"

    @property
    def signature(self) -> str:
        """The signatures of the components."""
        return f"minimum({', '.join(self.signatures)})"

    def combined_range(self, ranges: list[tuple[float, float]]) -> tuple[float, float]:
        """Returns the least of both ends."""
        lows, highs = zip(*ranges, strict=True)
        return min(lows), min(highs)

    def combined(self, values: tuple[float | None, ...]) -> float | None:
        """Returns the least, or `None` if a component is."""
        known = [value for value in values if value is not None]
        return min(known) if len(known) == len(values) else None
