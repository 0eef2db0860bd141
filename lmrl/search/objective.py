"""What a sweep optimises: a held-out score of the trained model, perhaps under a bound on the KL."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lmrl.evaluation.metrics import METRICS

from .space import closest

_BY_MODELS = ("perplexity", "own_perplexity", "kl")


@dataclass(frozen=True)
class Objective:
    """
    A held-out score, and the KL that may be paid for it.

    Args:
        name (`str`):
            A score by name, or `reward`: the weighted sum of the rewards.
        direction (`str`, *optional*, defaults to `"maximize"`):
            `maximize` or `minimize`.
        max_kl (`float`, *optional*):
            Largest KL, in nats per completion, of a trial that may be the best.
        weights (list of `float`, *optional*, defaults to `(1.0,)`):
            Weights of the rewards, which are the first scores that begin with `reward/`.

    Raises:
        ValueError: If there is no such score.
    """

    name: str
    direction: str = "maximize"
    max_kl: float | None = None
    weights: Sequence[float] = (1.0,)

    def __post_init__(self) -> None:
        known = ("reward", *METRICS, *_BY_MODELS)
        if self.name not in known and not self.name.startswith("reward/"):
            raise ValueError(
                f"objective is {self.name!r}{closest(self.name, known)}, but must be one of {', '.join(known)}, or "
                "reward/ and the name of a reward or of one of --eval_metrics"
            )

    def value(self, scores: Mapping[str, float], prefix: str = "") -> float | None:
        """
        Returns the score, or None if it was not measured.

        Args:
            scores (`dict` of `float`):
                Scores by name.
            prefix (`str`, *optional*, defaults to `""`):
                What their names begin with: `eval_` in a log.
        """
        if self.name != "reward":
            return scores.get(prefix + self.name)
        rewards = [value for name, value in scores.items() if name.startswith(f"{prefix}reward/")]
        if len(rewards) < len(self.weights):
            return None
        return math.fsum(weight * value for weight, value in zip(self.weights, rewards, strict=False))
