"""Reward functions on probation: what they return is checked before anything is trained on it."""

import inspect
import math
import numbers
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from trl.trainer.utils import get_callable_name, is_async_callable


class RewardError(ValueError):
    """A reward function failed, or returned what cannot be trained on."""


class CheckedReward:
    """
    A reward function whose failures are told in a sentence that names the reward and the row.

    On several processes a failure is kept until [`raise_together`], and the rewards are `None`: the others are about
    to gather theirs, and would wait for a process that had raised.

    Args:
        reward_func (`Callable`):
            `f(prompts=..., completions=..., **columns) -> list[float | None]`.
        name (`str`):
            Name under which it is logged.
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
        completions = kwargs["completions"]
        self.failure = error if isinstance(error, RewardError) else self._failure(error, completions)
        self.failure.__cause__ = None if error is self.failure else error
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            raise self.failure
        return [None] * len(completions)

    def _failure(self, error: Exception, completions: list[Any]) -> RewardError:
        return RewardError(
            f"The reward {self.__name__!r} raised {type(error).__name__}: {str(error).rstrip('.')}. It was scoring "
            f"{len(completions)} completions, the first of them {_short(completions[0])}."
        )

    def _checked(self, rewards: Any, kwargs: dict[str, Any]) -> list[float | None]:
        completions = kwargs["completions"]
        if not (isinstance(rewards, list | tuple) or hasattr(rewards, "tolist")):
            raise RewardError(
                f"The reward {self.__name__!r} returned {_short(rewards)}, and must return a list of numbers, one per "
                "completion."
            )
        if len(rewards) != len(completions):
            raise RewardError(
                f"The reward {self.__name__!r} returned {len(rewards)} values for {len(completions)} completions. It "
                "must return one per completion, None where it does not apply."
            )
        return [self._number(value, row, kwargs) for row, value in enumerate(rewards)]

    def _number(self, value: Any, row: int, kwargs: dict[str, Any]) -> float | None:
        if value is None:
            return None
        if hasattr(value, "item") and math.prod(getattr(value, "shape", ())) == 1:
            value = value.item()
        if not isinstance(value, numbers.Real) or not abs(float(value)) <= torch.finfo(torch.float32).max:
            raise RewardError(
                f"The reward {self.__name__!r} returned {_short(value)} for row {row}, and must return a finite "
                f"number, or None where it does not apply. The completion is {_short(kwargs['completions'][row])}"
                f"{_prompt(kwargs, row)}."
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


def raise_together(rewards: list[CheckedReward], accelerator: Accelerator) -> None:
    """
    Raises on every process what a reward met on one of them; returns where all went well on all.

    Args:
        rewards (`list[CheckedReward]`):
            Rewards that have just been called, on every process.
        accelerator ([`~accelerate.Accelerator`]):
            What joins the processes.

    Raises:
        RewardError: The first failure of the first process, on all alike.
    """
    failures = [reward.failure for reward in rewards if reward.failure is not None]
    for reward in rewards:
        reward.failure = None
    failed = torch.tensor(len(failures), device=accelerator.device)
    if accelerator.reduce(failed, reduction="sum") == 0:
        return
    # What fails only because another process did, in statistics that all take part in, says nothing of the reason.
    mine = sorted(failures, key=_is_echo)[:1]
    said = gather_object([(_is_echo(failure), accelerator.process_index, str(failure)) for failure in mine])
    _, rank, sentence = min(said)
    raise RewardError(f"{sentence} This was process {rank} of {accelerator.num_processes}.") from (*mine, None)[0]


def _is_echo(failure: RewardError) -> bool:
    return getattr(failure.__cause__, "of_another_process", False)


def checked_rewards(reward_funcs: Any) -> list[CheckedReward]:
    """
    Returns the reward functions, each wrapped in its checks and given a name of its own.

    Args:
        reward_funcs (`Callable` or `list[Callable]`):
            Reward functions as TRL takes them.

    Raises:
        TypeError: If one is not callable, or is a model (or the name of one), which TRL would load with a fresh head
            where the checkpoint is a classifier, and read without its special tokens.
    """
    reward_funcs = list(reward_funcs) if isinstance(reward_funcs, list | tuple) else [reward_funcs]
    if not reward_funcs:
        raise ValueError("reward_funcs is empty: give at least one reward.")
    checked: list[CheckedReward] = []
    for reward_func in reward_funcs:
        if isinstance(reward_func, str | nn.Module) or not callable(reward_func):
            raise TypeError(
                f"reward_funcs has {_short(reward_func)}. A reward is a function of prompts and completions: for a "
                "classifier write `lmrl.rewards.Classifier(model, label=...)`."
            )
        name, taken = get_callable_name(reward_func), [other.__name__ for other in checked]
        unique = name if name not in taken else f"{name}_{len(taken) + 1}"
        checked.append((AsyncCheckedReward if is_async_callable(reward_func) else CheckedReward)(reward_func, unique))
    return checked


def missing_columns(reward: CheckedReward, columns: list[str]) -> list[str]:
    """Returns the columns that a reward reads and that are not there: those it states, or its required arguments."""
    stated = getattr(reward.reward_func, "columns", None)
    if stated is None:
        given = {"prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric"}
        parameters = inspect.signature(reward.reward_func).parameters.values()
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.default is p.empty]
        stated = [p.name for p in named if p.name not in given]
    return [column for column in stated if column not in columns]


def _short(value: Any, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def _prompt(kwargs: dict[str, Any], row: int) -> str:
    return f", of the prompt {_short(kwargs['prompts'][row])}" if kwargs.get("prompts") else ""
