"""Validation of reward functions and of their output."""

import math
import numbers
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.logging import get_logger
from torch import nn
from trl.trainer.utils import get_callable_name, is_async_callable

from lmrl.distributed import gather, is_distributed, rank_and_world_size
from lmrl.utils import failure_of, shorten

logger = get_logger(__name__)


class RewardError(ValueError):
    """A reward function failed, or returned what cannot be trained on."""


class CheckedReward:
    """
    A reward function whose failures name the reward and the row.

    On several processes a failure is kept until [`raise_on_all_ranks`], and its rewards are `None`: the others are
    about to gather their rewards, and would wait for one that had raised. The reward is logged under `name`.
    """

    def __init__(self, reward_func: Callable[..., Any], name: str) -> None:
        self.reward_func = reward_func
        self.failure: RewardError | None = None
        self.__name__ = name

    def __call__(self, **kwargs: Any) -> list[float | None]:
        """Returns the checked rewards, one per completion."""
        try:
            return self._checked(self.reward_func(**kwargs), kwargs)
        except Exception as error:
            return self._failed(error, kwargs)

    def _failed(self, error: Exception, kwargs: dict[str, Any]) -> list[float | None]:
        if isinstance(error, RewardError):
            self.failure = error
        else:
            self.failure = RewardError(f"The reward {self.__name__!r} {failure_of(error, kwargs)}")
            self.failure.__cause__ = error
        if not is_distributed():
            raise self.failure
        return [None] * len(kwargs["completions"])

    def _checked(self, rewards: Any, kwargs: dict[str, Any]) -> list[float | None]:
        completions = kwargs["completions"]
        if not (isinstance(rewards, list | tuple) or hasattr(rewards, "tolist")):
            raise RewardError(
                f"The reward {self.__name__!r} must return a list of numbers, one per completion, got "
                f"{shorten(rewards)}."
            )
        if len(rewards) != len(completions):
            raise RewardError(
                f"The reward {self.__name__!r} must return one value per completion, None where it does not apply, "
                f"got a list of {len(rewards)} for a batch of {len(completions)}."
            )
        return [self._number(value, row, kwargs) for row, value in enumerate(rewards)]

    def _number(self, value: Any, row: int, kwargs: dict[str, Any]) -> float | None:
        if value is None:
            return None
        if hasattr(value, "item") and math.prod(getattr(value, "shape", ())) == 1:
            value = value.item()
        if not isinstance(value, numbers.Real) or not abs(float(value)) <= torch.finfo(torch.float32).max:
            prompt = f", of the prompt {shorten(kwargs['prompts'][row])}" if kwargs.get("prompts") else ""
            raise RewardError(
                f"The reward {self.__name__!r} must return a finite number, or None where it does not apply, got "
                f"{shorten(value)} for row {row}. The completion is {shorten(kwargs['completions'][row])}{prompt}."
            )
        return float(value)


class AsyncCheckedReward(CheckedReward):
    """[`CheckedReward`] for an `async` function: TRL awaits all of those together."""

    async def __call__(self, **kwargs: Any) -> list[float | None]:  # type: ignore[override]
        """Returns the checked rewards, one per completion."""
        try:
            return self._checked(await self.reward_func(**kwargs), kwargs)
        except Exception as error:
            return self._failed(error, kwargs)


def raise_on_all_ranks(rewards: Sequence[CheckedReward]) -> None:
    """Raises the same failure of a reward on every process, the first of the lowest rank; returns if none failed."""
    failures = [reward.failure for reward in rewards if reward.failure is not None]
    for reward in rewards:
        reward.failure = None
    # Where all processes compute statistics together, a failure of one makes the others fail: an echo, not a cause.
    failures.sort(key=_is_echo)
    own = failures[0] if failures else None
    rank, world_size = rank_and_world_size()
    everyone = gather(None if own is None else (_is_echo(own), rank, str(own)))
    failed = [failure for failure in everyone if failure is not None]
    if failed:
        _, rank, message = min(failed)
        raise RewardError(f"{message} This was process {rank} of {world_size}.") from own


def _is_echo(failure: RewardError) -> bool:
    return getattr(failure.__cause__, "of_another_process", False)


def checked_rewards(reward_funcs: Any) -> list[CheckedReward]:
    """
    Returns the reward functions, given as TRL takes them, each wrapped in its checks and with a name of its own.
    Models and their names are refused: TRL would give a classifier's checkpoint a fresh head, and leave out the
    special tokens of the texts that it reads.
    """
    reward_funcs = list(reward_funcs) if isinstance(reward_funcs, list | tuple) else [reward_funcs]
    if not reward_funcs:
        raise ValueError("`reward_funcs` must have at least one reward, got none.")
    checked: list[CheckedReward] = []
    for reward_func in reward_funcs:
        if isinstance(reward_func, str | nn.Module) or not callable(reward_func):
            raise TypeError(
                f"`reward_funcs` must have functions of prompts and completions, got {shorten(reward_func)}. Write "
                "`lmrl.rewards.RewardModel(model)`, or `lmrl.rewards.Classifier(model, label=...)` for a classifier."
            )
        name = get_callable_name(reward_func)
        if hasattr(reward_func, "components") and name in [other.__name__ for other in checked]:
            raise ValueError(
                f"`reward_funcs` must have distinct names, under which the parts of sums and products are logged, got "
                f"{name!r} twice. Give one of them another `name`."
            )
        while name in [other.__name__ for other in checked]:
            name = f"{name}_{len(checked) + 1}"
        kind = AsyncCheckedReward if is_async_callable(reward_func) else CheckedReward
        checked.append(kind(reward_func, name))
    return checked


def reward_states(rewards: Sequence[CheckedReward]) -> dict[str, dict[str, Any]]:
    """Returns, by reward name, the state of each reward that has a `state_dict`, unless it is empty."""
    return {name: state for name, state in _all_states(rewards).items() if state}


def _all_states(rewards: Sequence[CheckedReward]) -> dict[str, dict[str, Any]]:
    stateful = {reward.__name__: reward.reward_func for reward in rewards if hasattr(reward.reward_func, "state_dict")}
    return {name: reward_func.state_dict() for name, reward_func in stateful.items()}


def load_reward_states(rewards: Sequence[CheckedReward], states: dict[str, dict[str, Any]]) -> None:
    """Loads what [`reward_states`] returned. The state of a reward that is not used is passed over with a warning."""
    by_name: dict[str, Any] = {reward.__name__: reward.reward_func for reward in rewards}
    for name, state in states.items():
        if name in by_name:
            by_name[name].load_state_dict(state)
        else:
            logger.warning(f"The checkpoint has a state of the reward {name!r}, which this run does not use.")


@contextmanager
def unlearned(rewards: Sequence[CheckedReward]) -> Iterator[None]:
    """Restores the states of rewards at the end, as what they score in the context is not trained on."""
    states = _all_states(rewards)
    try:
        yield
    finally:
        load_reward_states(rewards, states)


@contextmanager
def unlearned_on_failure(rewards: Sequence[CheckedReward]) -> Iterator[None]:
    """Restores the states of rewards if one fails in the context, as a resumed run calls them once more."""
    states = _all_states(rewards)
    try:
        yield
    except RewardError:
        load_reward_states(rewards, states)
        raise
