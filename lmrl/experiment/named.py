"""The scores by which systems are compared, from the names and rewards that a user gives."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

from lmrl.evaluation.evaluate import Reward
from lmrl.evaluation.likelihood import MODEL_SCORES
from lmrl.evaluation.metrics import METRICS, higher_is_better, score_of_two
from lmrl.evaluation.roles import is_reward
from lmrl.rewards import make_reward, make_rewards, reward_name
from lmrl.utils import check_in

Spec: TypeAlias = str | Mapping[str, Any]


def rewards_to_measure(
    rewards: Sequence[Reward], metrics: Sequence[Spec] | None, win_rate: Sequence[Spec] | None
) -> list[Reward]:
    """
    Returns the rewards of an evaluation: `rewards`, those of `metrics`, and last further ones for `win_rate`.

    Args:
        rewards (list of callables), metrics (list of `str` or `dict`, *optional*):
            Rewards, and further ones as [`~lmrl.rewards.make_reward`] takes them.
        win_rate (list of `str` or `dict`, *optional*):
            Names of scores, `bleu` or `reward/bleu`, and rewards in the form of `metrics`. A name stands for the
            measured reward of that name, or else for the evaluation's metric.
    """
    measured = [*rewards, *make_rewards(metrics or [])]
    names = [reward_name(reward) for reward in measured]
    return [*measured, *(make_reward(spec) for spec in win_rate or () if _score_name(spec, names) is None)]


def names_of_scores(specs: Sequence[Spec] | None, measured: Collection[str]) -> list[str]:
    """
    Returns the names of the scores by which win rates are computed, in the order of `specs`. `measured` has the names
    of all scores; the rewards that only these specs need are the last rewards in it ([`rewards_to_measure`]).

    Raises:
        ValueError: If one is not measured, has no value for single texts, or has no better direction.
    """
    rewards = [name.removeprefix("reward/") for name in measured if name.startswith("reward/")]
    specs = specs or ()
    made = [spec for spec in specs if _score_name(spec, rewards) is None]
    further = iter(rewards[len(rewards) - len(made) :])
    names = [_score_name(spec, rewards) or f"reward/{next(further, spec)}" for spec in specs]
    for name in names:
        check_in(measured, win_rate=name)
        if name in METRICS and score_of_two(name).row_scores is None:
            raise ValueError(f"`win_rate` must be of a score that each text has, got {name!r}, which is of all texts.")
        if higher_is_better(name) is None:
            raise ValueError(f"`win_rate` must be of a score of which more or less is better, got {name!r}.")
    return list(dict.fromkeys(names))


def _score_name(spec: Spec, rewards: Collection[str]) -> str | None:
    """Returns the name of a score that is measured anyway; `None` for a reward that must be made from the spec."""
    if not isinstance(spec, str) or spec.lstrip().startswith("{"):
        return None
    if spec in rewards:
        return f"reward/{spec}"
    return spec if is_reward(spec) or spec in METRICS or spec in MODEL_SCORES else None
