"""Rewards made of rewards."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .base import Reward


class Weighted(Reward):
    """
    Returns the weighted sum of other rewards: `sum over i of w_i * reward_i`.

    A component that answers `None` for a row is left out of its sum, without scaling up the other weights; the row is
    `None` when all do. In a TRL trainer the mean of each component before weighting is logged as
    `{name}/{component}`.

    Args:
        rewards (`dict[Callable, float]` or list of `(Callable, float)`):
            Components with their weights. A component is any callable that TRL takes as a reward function.
        name (`str`, *optional*, defaults to `"weighted"`):
            Name under which trainers log the sum.

    Attributes:
        components (`tuple[Callable, ...]`): the rewards.
        weights (`tuple[float, ...]`): their weights.

    Raises:
        ValueError: if there is no component, if two have the same name, or if a weight is not finite.

    Example:

    ```python
    >>> reward = Weighted([(ExactMatch(), 1.0), (Length(4), 0.5)])
    >>> reward(completions=["one two"], references=["one two"])
    [1.25]
    ```
    """

    def __init__(
        self,
        rewards: Mapping[Callable[..., Any], float] | Iterable[tuple[Callable[..., Any], float]],
        name: str = "weighted",
    ):
        pairs = list(rewards.items() if isinstance(rewards, Mapping) else rewards)
        if not pairs:
            raise ValueError("`Weighted` needs at least one reward with its weight.")
        for reward, weight in pairs:
            if not callable(reward) or not math.isfinite(weight):
                raise ValueError(f"`Weighted` takes callables with finite weights, got {reward!r}: {weight!r}.")
        self.components = tuple(reward for reward, _ in pairs)
        self.weights = tuple(float(weight) for _, weight in pairs)
        if len(set(self.names)) < len(pairs):
            raise ValueError(
                f"Components need distinct names, to tell their logs apart, got {self.names}: set `name=`."
            )
        columns = [column for reward in self.components for column in getattr(reward, "columns", ())]
        super().__init__(name, columns=tuple(dict.fromkeys(columns)), range=self._sum_of_ranges())

    @property
    def names(self) -> list[str]:
        """Names of the components, in order."""
        return [getattr(reward, "__name__", type(reward).__name__) for reward in self.components]

    @property
    def signature(self) -> str:
        """The signatures of the components with their weights."""
        parts = [getattr(reward, "signature", name) for reward, name in zip(self.components, self.names, strict=True)]
        return " + ".join(f"{weight:g} * ({part})" for weight, part in zip(self.weights, parts, strict=True))

    def _sum_of_ranges(self) -> tuple[float, float]:
        low = high = 0.0
        for reward, weight in zip(self.components, self.weights, strict=True):
            if weight == 0:
                continue
            ends = [weight * end for end in getattr(reward, "range", (-math.inf, math.inf))]
            low, high = low + min(0.0, *ends), high + max(0.0, *ends)  # 0: the component may be left out
        return low, high

    def raw(self, **inputs: Any) -> dict[str, list[float | None]]:
        """Returns the rewards of each component, before weighting, by its name; takes what a reward is called with."""
        rows = len(inputs["completions"])
        results = {}
        for name, reward in zip(self.names, self.components, strict=True):
            values = [None if value is None else float(value) for value in reward(**inputs)]
            if len(values) != rows:
                raise ValueError(f"The reward {name!r} returned {len(values)} values for {rows} completions.")
            results[name] = values
        return results

    def __call__(
        self, *, completions: Sequence[Any], prompts: Sequence[Any] | None = None, **columns: Any
    ) -> list[float | None]:
        # The components are called with all that a trainer passes, and with completions as they are: a plain function
        # may read the messages of a chat.
        if prompts is not None:
            columns["prompts"] = prompts
        raw = self.raw(completions=completions, **columns)
        log_metric = columns.get("log_metric")
        for name, values in raw.items():
            known = [value for value in values if value is not None]
            if log_metric is not None and known:
                log_metric(f"{self.__name__}/{name}", sum(known) / len(known))
        return [self._sum(row) for row in zip(*raw.values(), strict=True)]

    def _sum(self, row: tuple[float | None, ...]) -> float | None:
        terms = [weight * value for weight, value in zip(self.weights, row, strict=True) if value is not None]
        return sum(terms) if terms else None
