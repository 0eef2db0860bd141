"""A reward standardised by all scores so far, or by those of the other completions of its prompt."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from operator import itemgetter
from typing import Any

from lmrl.distributed import gather_or_fail
from lmrl.utils import check_in, name_of

from .algebra import Combined, Values
from .base import Scores, signature_of

NEGLIGIBLE = 1e-12  # relative to the mean: a larger standard deviation is no rounding error of float64


@dataclass(frozen=True)
class Moments:
    """Number of values, their mean, and the sum of their squared distances from it."""

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

    def merge(self, other: "Moments") -> "Moments":
        """
        Returns the moments of both sets of numbers together.

        From "Algorithms for Computing the Sample Variance: Analysis and Recommendations" (Chan, Golub and LeVeque,
        1983, https://doi.org/10.1080/00031305.1983.10483115): sums of squares would lose the digits of a small spread.
        """
        if not other.count:
            return self
        count = self.count + other.count
        apart = other.mean - self.mean
        mean = self.mean + apart * other.count / count
        return Moments(count, mean, self.squares + other.squares + apart**2 * self.count * other.count / count)

    def standardized(self, value: float) -> float:
        """Returns `(value - mean) / std`, and 0 where there is no spread."""
        std = math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else 0.0
        return (value - self.mean) / std if std > NEGLIGIBLE * abs(self.mean) else 0.0


def _in_training(inputs: Mapping[str, Any]) -> bool:
    """Returns if TRL is training: `log_metric` is a method of the trainer, and its model is in training mode."""
    trainer = getattr(inputs.get("log_metric"), "__self__", None)
    return inputs.get("trainer_state") is not None and getattr(getattr(trainer, "model", None), "training", True)


class Normalized(Combined):
    """
    Returns, in training, a reward less its mean, divided by its standard deviation, so that components of any scale
    can be added up.

    | `by` | mean and standard deviation of |
    |---|---|
    | `"running"` | all scores in training so far, this batch included |
    | `"group"` | the completions of the same prompt in this batch |

    Both are taken over all processes, in float64, with the unbiased variance (divided by n - 1). Where there is no
    spread (a single score, or a standard deviation of less than 1e-12 of the mean, which is rounding) the result is 0.
    `None` stays `None` and is left out of both. The running statistics are saved in the trainer's checkpoints.

    In evaluation the reward is returned unchanged, also inside a sum or product: normalised scores are 0 on average,
    and those of two checkpoints could not be compared. Training is recognised by the arguments that TRL passes to a
    reward: `trainer_state`, and the method `log_metric` of a trainer whose model is in training mode.

    A group is the completions with the same prompt and the same values in the columns that the reward reads. They may
    be on several processes, which must call the reward equally often. Wrap this around [`Cached`], not the reverse.

    Args:
        by (`str`, *optional*, defaults to `"running"`):
            `"running"` or `"group"`.

    Attributes:
        statistics ([`Moments`]): running count, mean and sum of squared distances from it.

    Raises:
        ValueError: When called in training, by group, without prompts.
    """

    def __init__(self, reward: Callable[..., Any], by: str = "running", name: str | None = None):
        check_in(("running", "group"), by=by)
        self.by = by
        self.statistics = Moments()
        super().__init__(
            itemgetter(0),
            [reward],
            f"{name_of(reward)}_normalized" if name is None else name,
            signature=f"normalized({signature_of(reward)}, by {by})",
        )
        self.potential = None  # the scale changes from rollout to rollout

    def raw(self, **inputs: Any) -> dict[str, Scores]:
        """Returns the scores; in training, a failure is raised on the other processes too, which wait for this one."""
        try:
            return super().raw(**inputs)
        except Exception:
            if _in_training(inputs):
                gather_or_fail(None, failed=True)
            raise

    def combine(self, rows: list[Values], inputs: Mapping[str, Any]) -> Scores:
        """Returns the rewards of all rows, normalised in training."""
        if not _in_training(inputs):
            return super().combine(rows, inputs)
        scores = [score for (score,) in rows]
        if self.by == "group":
            return self._by_group(scores, inputs)
        for moments in gather_or_fail(Moments.of([score for score in scores if score is not None])):
            self.statistics = self.statistics.merge(moments)
        return [None if score is None else self.statistics.standardized(score) for score in scores]

    def _by_group(self, scores: Scores, inputs: Mapping[str, Any]) -> Scores:
        pairs = list(zip(self._groups(inputs), scores, strict=True))
        groups = defaultdict(list)
        for of_process in gather_or_fail([(key, score) for key, score in pairs if score is not None]):
            for key, score in of_process:
                groups[key].append(score)
        moments = {key: Moments.of(group) for key, group in groups.items()}
        return [None if score is None else moments[key].standardized(score) for key, score in pairs]

    def _groups(self, inputs: Mapping[str, Any]) -> list[str]:
        if inputs.get("prompts") is None:
            raise ValueError(f"The reward {self.__name__!r} needs `prompts` to normalise by group, got none.")
        # Two rows may share a prompt and differ in their references, and then their scores are not comparable.
        return [repr(row) for row in zip(inputs["prompts"], *(inputs[column] for column in self.columns), strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """Returns the running statistics, and the state of the reward if it has one."""
        inside = super().state_dict()
        running = {"statistics": list(astuple(self.statistics))} if self.statistics.count else {}
        return running | ({"components": inside} if inside else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the result of [`state_dict`]."""
        self.statistics = Moments(*state.get("statistics", ()))
        super().load_state_dict(state.get("components", {}))
