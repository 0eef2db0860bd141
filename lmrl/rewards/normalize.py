"""A reward on the scale of what was seen so far, or of the other completions of its prompt."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from .combine import UNBOUNDED, Combined

NEGLIGIBLE = 1e-12  # of the mean: what float64 leaves of a spread of 0 is smaller


@dataclass(frozen=True)
class Moments:
    """How many numbers there were, their mean, and the sum of their squared distances from it."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, values: Sequence[float]) -> "Moments":
        """Returns the moments of some numbers."""
        if not values:
            return cls()
        mean = math.fsum(values) / len(values)
        return cls(len(values), mean, math.fsum((value - mean) ** 2 for value in values))

    def with_(self, other: "Moments") -> "Moments":
        """
        Returns the moments of both sets of numbers together.

        From "Algorithms for Computing the Sample Variance: Analysis and Recommendations" (Chan, Golub and LeVeque,
        1983, https://doi.org/10.1080/00031305.1983.10483115): sums of squares would lose the digits of a small spread.
        """
        if not other.count:
            return self
        count, apart = self.count + other.count, other.mean - self.mean
        mean = self.mean + apart * other.count / count
        return Moments(count, mean, self.squares + other.squares + apart**2 * self.count * other.count / count)

    def standardized(self, value: float) -> float:
        """Returns `(value - mean) / std`, and 0 where there is no spread."""
        std = math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else 0.0
        return (value - self.mean) / std if std > NEGLIGIBLE * abs(self.mean) else 0.0


class FailedElsewhere(RuntimeError):
    """Raised where the scores of another process are missing, because its reward failed."""

    of_another_process = True  # a trainer that knows the reason tells that one


def _of_all_processes(values: Any, failed: bool = False) -> list[Any]:
    """Returns what each process has, in their order; raises if one has `failed`, on the others."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return [values]
    everyone: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everyone, (failed, values))
    if not failed and (ranks := [rank for rank, (missing, _) in enumerate(everyone) if missing]):
        raise FailedElsewhere(f"process {ranks[0]} has no scores, as its reward failed")
    return [value for _, value in everyone]


def _in_training(inputs: Mapping[str, Any]) -> bool:
    """TRL passes `trainer_state`, and as `log_metric` a method of the trainer, whose model knows its mode."""
    trainer = getattr(inputs.get("log_metric"), "__self__", None)
    return inputs.get("trainer_state") is not None and getattr(getattr(trainer, "model", None), "training", True)


class Normalized(Combined):
    """
    Returns, in training, a reward less its mean, divided by its standard deviation, so that components of any scale
    can be added up.

    | `by` | mean and standard deviation of |
    |---|---|
    | `"running"` | all that was scored in training so far, this batch included |
    | `"group"` | the completions of the same prompt in this batch |

    Both are taken over all processes, in float64, with the unbiased variance (divided by n - 1). Where there is no
    spread (a single score, or a standard deviation of less than 1e-12 of the mean, which is rounding) the result is 0.
    `None` stays `None` and is left out. The running statistics are saved in the trainer's checkpoints.

    Only training is normalised and learned from. Evaluation, within a trainer or without one, gets the reward as it
    is: a score less its mean is 0 on average, and running statistics move, so that a normalised score would tell
    nothing of a checkpoint and could not be compared with another. What is made of a normalised reward, such as its
    clipping, is then made of the reward itself. Training is recognised by what TRL passes to a reward:
    `trainer_state`, and the method `log_metric` of a trainer whose model is in training mode.

    A group is told by its prompt and the columns that the reward reads; its completions may be on several processes.
    As every process takes part, all must call the reward equally often. Put this around a reward that is cached or
    runs in workers, not inside.

    Args:
        reward (`Callable`):
            Any callable that TRL takes as a reward function.
        by (`str`, *optional*, defaults to `"running"`):
            `"running"` or `"group"`.
        name (`str`, *optional*):
            Name under which trainers log it. Defaults to the reward's with `_normalized`.

    Attributes:
        statistics ([`Moments`]): running count, mean and sum of squared distances from it.

    Raises:
        ValueError: if the reward cannot be called, for an unknown `by`, or if a group has no prompt.
    """

    def __init__(self, reward: Callable[..., Any], by: str = "running", name: str | None = None):
        if by not in ("running", "group"):
            raise ValueError(f"`by` of `Normalized` must be 'running' or 'group', got {by!r}.")
        self.by = by
        self.statistics = Moments()
        super().__init__((reward,), name)

    @property
    def default_name(self) -> str:
        """The reward, normalised."""
        return f"{self.names[0]}_normalized"

    @property
    def signature(self) -> str:
        """The signature of the reward and what it is normalised by."""
        return f"normalized({self.signatures[0]}, by {self.by})"

    def combined_range(self, ranges: list[tuple[float, float]]) -> tuple[float, float]:
        """Returns that there is no bound."""
        return UNBOUNDED

    def raw(self, **inputs: Any) -> dict[str, list[float | None]]:
        """Returns the scores; where there are none, the other processes are told, which wait for them in training."""
        try:
            return super().raw(**inputs)
        except Exception:
            if _in_training(inputs):
                _of_all_processes(None, failed=True)
            raise

    def combined(self, values: tuple[float | None, ...]) -> float | None:
        """Returns the reward as it is: outside training."""
        return values[0]

    def batch(self, rows: list[tuple[float | None, ...]], inputs: Mapping[str, Any]) -> list[float | None]:
        """Returns the rewards of all rows, normalised in training."""
        if not _in_training(inputs):
            return super().batch(rows, inputs)
        scores = [score for (score,) in rows]
        if self.by == "group":
            return self._by_group(scores, inputs)
        for seen in _of_all_processes(Moments.of([score for score in scores if score is not None])):
            self.statistics = self.statistics.with_(seen)
        return [None if score is None else self.statistics.standardized(score) for score in scores]

    def _by_group(self, scores: list[float | None], inputs: Mapping[str, Any]) -> list[float | None]:
        keys = self._groups(inputs)
        pairs = zip(keys, scores, strict=True)
        everything = _of_all_processes([(key, score) for key, score in pairs if score is not None])
        moments = {key: Moments.of(group) for key, group in _grouped(everything).items()}
        return [
            None if score is None else moments[key].standardized(score)
            for key, score in zip(keys, scores, strict=True)
        ]

    def _groups(self, inputs: Mapping[str, Any]) -> list[str]:
        if inputs.get("prompts") is None:
            raise ValueError(
                f"The reward {self.__name__!r} is normalised over a prompt's completions: pass `prompts`."
            )
        # Two rows may share a prompt and differ in their references, and then their scores are not comparable.
        return [repr(row) for row in zip(inputs["prompts"], *(inputs[column] for column in self.columns), strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """Returns the running statistics, and the state of the reward if it has one."""
        inside = super().state_dict()
        running = {"statistics": list(astuple(self.statistics))} if self.statistics.count else {}
        return running | ({"components": inside} if inside else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what [`state_dict`] returned."""
        self.statistics = Moments(*state.get("statistics", ()))
        super().load_state_dict(state.get("components", {}))


def _grouped(pairs: Iterable[Iterable[tuple[str, float]]]) -> dict[str, list[float]]:
    groups = defaultdict(list)
    for of_process in pairs:
        for key, score in of_process:
            groups[key].append(score)
    return groups
