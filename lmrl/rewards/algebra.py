"""The base class of rewards with its operators, and the sums, products and rescaled rewards that these make."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from numbers import Real
from typing import Any, TypeAlias

from lmrl.progress import Prefixes, Progress, join_progress_and_potential, potential_of
from lmrl.utils import check_finite, name_of

from .base import UNBOUNDED, BaseReward, Prompts, Range, Scores, as_text, call_reward, range_of, signature_of

Operand: TypeAlias = Callable[..., Any] | float
Values: TypeAlias = tuple[float | None, ...]


class Reward(BaseReward):
    """
    Base of every reward: `reward(completions=..., prompts=..., **columns)` returns one number per completion.

    The same object is an entry of `reward_funcs` of any TRL trainer and a metric of evaluation. It is called by
    keyword only; arguments that it does not use (`completion_ids`, `trainer_state`, other columns ...) are ignored.
    `None` in place of a number means "not applicable to this row". A reward can be pickled.

    Operators combine a reward with another one, with a plain function that is one, or with a number:

    | expression | result |
    |---|---|
    | `0.7 * a + 0.3 * b`, `a + b - c` | one [`Weighted`] of all terms |
    | `0.7 * a`, `a / 2`, `-a` | a [`Weighted`] of one |
    | `a * b`, `a * b * c` | one [`Product`] |
    | `a + 1`, `1 - a` | a [`Scaled`] |

    A sum or product with a `name` of its own stays one component of a longer one, and is logged under that name.

    Args:
        name (`str`):
            Name under which trainers log it; becomes `__name__`.
        columns (`Sequence[str]`, *optional*, defaults to `()`):
            Dataset columns it reads.
        range (`tuple[float, float]`, *optional*, defaults to `(0.0, 1.0)`):
            Lowest and highest possible reward.
        signature (`str`, *optional*):
            All that is needed to compute the same numbers again, as `name|key:value|...`. Defaults to the name.

    Raises:
        ValueError: If the name is empty or not a string; in subclasses also if an argument breaks the rule in its
            description: a choice out of several, a range, a finite number, a callable reward.
    """

    def __add__(self, other: Operand) -> "Reward":
        return _add(self, other)

    def __radd__(self, other: Operand) -> "Reward":
        return _add(other, self)

    def __sub__(self, other: Operand) -> "Reward":
        return _add(self, other, sign=-1.0)

    def __rsub__(self, other: Operand) -> "Reward":
        return _add(other, self, sign=-1.0)

    def __neg__(self) -> "Reward":
        return _multiply(self, -1.0)

    def __mul__(self, other: Operand) -> "Reward":
        return _multiply(self, other)

    def __rmul__(self, other: Operand) -> "Reward":
        return _multiply(other, self)

    def __truediv__(self, number: float) -> "Reward":
        if not isinstance(number, Real):
            raise TypeError(f"A reward can be divided by a number only, got {number!r}.")
        return _multiply(self, 1 / number)


class Combined(Reward):
    """
    A reward computed from other rewards, row by row.

    Every component is called with all arguments that a trainer passes, the completions unchanged, so that a plain
    function can read the messages of a chat. In a TRL trainer the mean of each component is logged as
    `{name}/{component}`. The saved state is that of the components. A component is any callable that TRL takes as a
    reward function. Subclasses take `rewards`, or a single `reward`, and an optional `name`, by default built from the
    components': `bleu_plus_length`, `bleu_times_length`, `bleu_clipped`.

    Args:
        fn (`Callable`):
            Maps the values of a row, a tuple with one number or `None` (not applicable) per component, to the reward
            of the row or `None`. Must be picklable if the reward is to be pickled.
        rewards (`Iterable[Callable]`):
            Components.
        name, range (defaults to `(-inf, inf)`), signature:
            Those of [`Reward`].

    Attributes:
        components (`tuple[Callable, ...]`): the rewards.

    Raises:
        ValueError: If there is no component, if one cannot be called, or if two have the same name.
    """

    def __init__(
        self,
        fn: Callable[[Values], float | None],
        rewards: Iterable[Callable[..., Any]],
        name: str,
        range: Range = UNBOUNDED,
        signature: str | None = None,
    ):
        self.fn = fn
        self.components = self._parts = tuple(rewards)
        self.potential = None if any(potential_of(reward) is None for reward in self.components) else -1
        kind = type(self).__name__
        if not self.components:
            raise ValueError(f"`rewards` of `{kind}` must have at least one reward, got none.")
        for reward in self.components:
            if not callable(reward):
                raise ValueError(f"The rewards of `{kind}` must be callables, got {reward!r}. Use `make_reward`.")
        if len(set(self.names)) < len(self.names):
            raise ValueError(
                f"The rewards of `{kind}` must have distinct names in the log, got {self.names}. Set their `name`."
            )
        columns = [column for reward in self.components for column in getattr(reward, "columns", ())]
        super().__init__(name, tuple(dict.fromkeys(columns)), range, signature)

    @property
    def names(self) -> list[str]:
        """Names of the components, in order."""
        return [name_of(reward) for reward in self.components]

    def raw(self, **inputs: Any) -> dict[str, Scores]:
        """
        Returns the rewards of each component by name; takes the arguments of a reward.

        Raises:
            ValueError: If a component does not return one finite number, or `None`, per completion.
        """
        results = {}
        failures = []
        for name, reward in zip(self.names, self.components, strict=True):
            try:  # also after a failure: a later component may wait for the other processes of a run
                results[name] = call_reward(reward, **inputs)
            except Exception as error:
                failures.append(error)
        if failures:
            raise failures[0]
        for name, values in results.items():
            for row, value in enumerate(values):
                if value is not None and not math.isfinite(value):  # clipping or a minimum could hide it
                    raise ValueError(f"The reward {name!r} must be finite or None, got {value} for row {row}.")
        return results

    def logged(self, raw: dict[str, Scores]) -> dict[str, Scores]:
        """Returns the values whose means are logged, by name."""
        return raw

    def __call__(self, *, completions: Sequence[Any], prompts: Prompts = None, **columns: Any) -> Scores:
        inputs = {"completions": completions, **columns} | ({} if prompts is None else {"prompts": prompts})
        raw = self.raw(**inputs)
        if (log_metric := columns.get("log_metric")) is not None:
            for name, values in self.logged(raw).items():
                if known := [value for value in values if value is not None]:
                    log_metric(f"{self.__name__}/{name}", sum(known) / len(known))
        return self.combine(list(zip(*raw.values(), strict=True)), inputs)

    def combine(self, rows: list[Values], inputs: Mapping[str, Any]) -> Scores:
        """Returns the results of all rows; `inputs` are the arguments of the call."""
        return [self.fn(values) for values in rows]

    def progress(self, *, prefixes: Sequence[Prefixes], **columns: Any) -> Progress:
        """Returns the numbers of all components, then, if each has a potential, `fn` of these potentials."""
        return join_progress_and_potential(self.fn, self.components, prefixes, **columns)

    def state_dict(self) -> dict[str, Any]:
        """Returns the states of the components that have one, by name."""
        states: list[Any] = [getattr(reward, "state_dict", dict)() for reward in self.components]
        return {name: state for name, state in zip(self.names, states, strict=True) if state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the result of [`state_dict`]."""
        components: dict[str, Any] = dict(zip(self.names, self.components, strict=True))
        if unknown := state.keys() - components.keys():
            raise ValueError(
                f"The state of {self.__name__!r} must be of its components {self.names}, got {sorted(unknown)}."
            )
        for name, component in components.items():  # a component missing in `state` had nothing to save
            getattr(component, "load_state_dict", dict)(state.get(name, {}))


class Weighted(Combined):
    """
    Returns the weighted sum of other rewards: `sum over i of w_i * reward_i`.

    A component that is `None` for a row is left out of its sum, without scaling up the other weights; the row is
    `None` when all are. In a TRL trainer the mean of each component is logged before weighting as
    `{name}/{component}`, and after it as `{name}/{component}_weighted`.

    Args:
        rewards (`dict[Callable, float]` or list of `(Callable, float)`):
            Components with their finite weights.

    Attributes:
        components (`tuple[Callable, ...]`): the rewards.
        weights (`tuple[float, ...]`): their weights.

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
        low = high = 0.0
        for reward, weight in pairs:
            if not math.isfinite(weight):
                raise ValueError(f"The weights of `Weighted` must be finite, got {weight} of {name_of(reward)!r}.")
            # 0 belongs to the range of a term, as its component may be left out; 0 times infinity would be NaN.
            ends = [0.0, *(weight * end for end in range_of(reward) if weight != 0)]
            low += min(ends)
            high += max(ends)
        self.weights = tuple(float(weight) for _, weight in pairs)
        super().__init__(
            partial(_weighted_sum, self.weights),
            [reward for reward, _ in pairs],
            _name_of_sum(pairs) if name is None else name,
            (low, high),
            " + ".join(f"{as_text(weight)} * ({signature_of(reward)})" for reward, weight in pairs),
        )

    def logged(self, raw: dict[str, Scores]) -> dict[str, Scores]:
        """Returns the values of each component before and after weighting."""
        weighted = {
            f"{name}_weighted": [None if value is None else weight * value for value in values]
            for weight, (name, values) in zip(self.weights, raw.items(), strict=True)
        }
        return raw | weighted


class Product(Combined):
    """
    Returns the product of other rewards.

    A row is `None` when any component is `None`: leaving it out would count it as 1, the best value of a factor
    between 0 and 1.

    Example:

    ```python
    >>> reward = ExactMatch() * Length(4)  # or Product([ExactMatch(), Length(4)])
    >>> reward(completions=["one two"], references=["one two"])
    [0.5]
    ```
    """

    def __init__(self, rewards: Iterable[Callable[..., Any]], name: str | None = None):
        parts = list(rewards)
        low = high = 1.0
        for ends in map(range_of, parts):  # 0 times infinity would be NaN, but 0 times any reward is 0
            products = [one * other if one and other else 0.0 for one in (low, high) for other in ends]
            low = min(products)
            high = max(products)
        signature = " * ".join(f"({signature_of(reward)})" for reward in parts)
        name = _name_of_product(parts) if name is None else name
        super().__init__(partial(unless_none, math.prod), parts, name, (low, high), signature)


class Scaled(Combined):
    """
    Returns a reward on another scale: `scale * reward + shift`.

    Args:
        scale (`float`, *optional*, defaults to `1.0`):
            Factor, not 0; a negative one turns a cost into a reward.
        shift (`float`, *optional*, defaults to `0.0`):
            Number added after scaling.

    Example:

    ```python
    >>> reward = 1 - Length(4)  # or Scaled(Length(4), scale=-1, shift=1)
    >>> reward(completions=["one"])
    [0.75]
    ```
    """

    def __init__(self, reward: Callable[..., Any], scale: float = 1.0, shift: float = 0.0, name: str | None = None):
        check_finite(scale=scale, shift=shift)
        if scale == 0:
            raise ValueError("`scale` must not be 0, got 0: all rewards would be equal. Leave the reward out.")
        low, high = sorted(scale * end + shift for end in range_of(reward))
        super().__init__(
            partial(unless_none, partial(_scale, float(scale), float(shift))),
            [reward],
            f"{name_of(reward)}_scaled" if name is None else name,
            (low, high),
            f"{as_text(scale)} * ({signature_of(reward)}) + {as_text(shift)}",
        )


def unless_none(fn: Callable[[Any], float], values: Values) -> float | None:
    """Returns `fn` of the values of a row, or `None` if any of them is `None`."""
    return None if None in values else fn(values)


def _weighted_sum(weights: tuple[float, ...], values: Values) -> float | None:
    terms = [weight * value for weight, value in zip(weights, values, strict=True) if value is not None]
    return sum(terms) if terms else None


def _scale(scale: float, shift: float, values: Sequence[float]) -> float:
    return scale * values[0] + shift


def _name_of_sum(pairs: Iterable[tuple[Any, float]]) -> str:
    """Returns a name such as `a_plus_b_minus_c`; of one term `weighted_a`, or `minus_a` for a negative weight."""
    terms = [(name_of(reward), weight) for reward, weight in pairs]
    if len(terms) == 1 and terms[0][1] >= 0:
        return f"weighted_{terms[0][0]}"
    return "_".join(f"{'minus' if weight < 0 else 'plus'}_{name}" for name, weight in terms).removeprefix("plus_")


def _name_of_product(factors: Iterable[Any]) -> str:
    return "_times_".join(map(name_of, factors))


def _add(left: Any, right: Any, sign: float = 1.0) -> Reward:
    if isinstance(right, Real):
        return Scaled(left, shift=sign * float(right))
    if isinstance(left, Real):
        zero: bool = left == 0 and sign == 1  # the start of Python's `sum`
        return right if zero else Scaled(right, scale=sign, shift=float(left))
    _check_operands(left, right)
    return Weighted([*_terms(left, 1.0), *_terms(right, sign)])


def _multiply(left: Any, right: Any) -> Reward:
    for number, reward in ((left, right), (right, left)):
        if isinstance(number, Real):
            return Weighted(_terms(reward, float(number)))
    _check_operands(left, right)
    return Product([*_factors(left), *_factors(right)])


def _check_operands(*operands: Any) -> None:
    for operand in operands:
        if not callable(operand):
            raise TypeError(f"An operand must be a reward, a function or a number, got {operand!r}.")


def _terms(reward: Any, factor: float) -> list[tuple[Any, float]]:
    """Returns the terms of a sum without a name of its own, or the reward as the only term."""
    if isinstance(reward, Weighted):
        pairs = list(zip(reward.components, reward.weights, strict=True))
        if reward.__name__ == _name_of_sum(pairs):
            return [(part, factor * weight) for part, weight in pairs]
    return [(reward, factor)]


def _factors(reward: Any) -> tuple[Any, ...]:
    """Returns the factors of a product without a name of its own, or the reward as the only factor."""
    unnamed = isinstance(reward, Product) and reward.__name__ == _name_of_product(reward.components)
    return reward.components if unnamed else (reward,)
