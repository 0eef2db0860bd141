"""Rewards that are slow, remote or prone to hang: cached, retried, or run in processes that can be killed."""

import functools
import hashlib
import json
import math
import pickle
import time
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmrl.progress import Prefixes, Progress, join_progress, potential_of
from lmrl.utils import check_above, check_at_least, check_finite, check_in, columns_of, name_of

from .algebra import Reward
from .base import Prompts, Scores, call_reward, range_of, signature_of
from .normalize import Normalized
from .workers import Failure, Pool

_NO_LISTS = (str, bytes, Mapping)
_OF_THE_TRAINER = ("trainer_state", "log_extra", "log_metric")


@dataclass(eq=False, repr=False)
class Wrapped(Reward):
    """
    Base of the wrappers that change how a reward is called, but not its values.

    Name, range, columns and signature are those of the reward. It is called with the arguments that have a value per
    row, and without the trainer's (`trainer_state`, `log_extra`, `log_metric`).

    Args:
        reward (`Callable`):
            Any callable that TRL takes as a reward function, `async` ones included. It must not have a state to be
            saved, as it does not see all rows, and must not be [`Normalized`], which reads the trainer's arguments.
    """

    reward: Callable[..., Any]

    def __post_init__(self) -> None:
        kind = type(self).__name__
        if not callable(self.reward):
            raise ValueError(f"`reward` must be callable, got {self.reward!r}.")
        name = name_of(self.reward)
        columns = columns_of(self.reward, known=("completions", "prompts", "completion_ids"))
        if needed := [column for column in _OF_THE_TRAINER if column in columns]:
            raise ValueError(f"The reward of `{kind}` must need rows alone, got {name!r} with {needed}.")
        if getattr(self.reward, "state_dict", dict)():
            raise ValueError(
                f"The reward of `{kind}` must have no state, got {name!r}, which has one. Wrap the "
                "rewards it is made of instead."
            )
        if _is_normalized(self.reward):
            raise ValueError(
                f"The reward of `{kind}` must not be normalized, got {name!r}, which would stay raw in training. Wrap "
                "the rewards it is made of instead."
            )
        self._parts = (self.reward,)
        self.potential = potential_of(self.reward)
        super().__init__(name, columns, range_of(self.reward), signature_of(self.reward))

    def progress(self, *, prefixes: Sequence[Prefixes], **columns: Any) -> Progress:
        """Returns the numbers of the reward, in this process."""
        return join_progress((self.reward,), prefixes, **columns)

    def _inputs(self, completions: Sequence[Any], prompts: Sequence[Any] | None, columns: Any) -> dict[str, Any]:
        """Returns the arguments of the reward: `completions`, and all others with one value per completion."""
        rows = self._checked(columns, len(completions))
        if not _reads_its_columns_alone(self.reward):
            listed = {k: v for k, v in columns.items() if hasattr(v, "__getitem__") and not isinstance(v, _NO_LISTS)}
            rows = {name: values for name, values in listed.items() if len(values) == len(completions)}
        return {"completions": completions, **({} if prompts is None else {"prompts": prompts}), **rows}


def _is_normalized(reward: Any) -> bool:
    return isinstance(reward, Normalized) or any(map(_is_normalized, getattr(reward, "_parts", ())))


def _reads_its_columns_alone(reward: Any) -> bool:
    while isinstance(reward, Wrapped):
        reward = reward.reward
    return isinstance(reward, Reward) and type(reward).__call__ is Reward.__call__


def _rows(inputs: Mapping[str, Any], rows: Sequence[int]) -> dict[str, list[Any]]:
    return {name: [values[row] for row in rows] for name, values in inputs.items()}


def _digest(inputs: Mapping[str, Any], row: int) -> bytes:
    values = {name: inputs[name][row] for name in sorted(inputs)}
    try:
        content = json.dumps(values).encode()
    except TypeError:  # an image, an array, a date
        content = pickle.dumps(values)
    return hashlib.blake2b(content, digest_size=16).digest()


@dataclass(eq=False, repr=False)
class Cached(Wrapped):
    """
    Returns the values of another reward, which scores each distinct row once.

    Two rows are the same if their prompt, completion and columns are equal: the columns that the reward declares, or
    all for a reward with its own `__call__` and for a function. A hash compares them. All rows that are not cached go
    to the reward in one call, without repetitions. `None` is cached too. Use it only for rewards that give the same
    number every time; the cache is neither pickled nor shared between processes. Wrap the parts of a sum, not the sum:
    the trainer's arguments are not passed on, so that it could not log its components.

    Args:
        size (`int`, *optional*, defaults to `65536`):
            Most rows in the cache, at least 1: those used last.
    """

    size: int = 65536

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, size=self.size)

    @functools.cached_property
    def _known(self) -> OrderedDict[bytes, float | None]:
        return OrderedDict()

    def __call__(self, *, completions: Sequence[Any], prompts: Prompts = None, **columns: Any) -> Scores:
        inputs = self._inputs(completions, prompts, columns)
        keys = [_digest(inputs, row) for row in range(len(completions))]
        missing = {key: row for row, key in enumerate(keys) if key not in self._known}
        if missing:
            new = call_reward(self.reward, **_rows(inputs, list(missing.values())))
            self._known.update(zip(missing, new, strict=True))
        rewards = [self._known[key] for key in keys]
        for key in keys:
            self._known.move_to_end(key)
        while len(self._known) > self.size:
            self._known.popitem(last=False)
        return rewards


@dataclass(eq=False, repr=False)
class Retried(Wrapped):
    """
    Returns the values of another reward, which is called again when it raises.

    For a scorer on another machine that is sometimes unreachable. It runs in this process: a reward that may hang
    belongs in [`InWorkers`], which has a timeout and `retries` of its own.

    Args:
        retries (`int`, *optional*, defaults to `2`):
            Further attempts, at least 1. The last failure is raised.
        wait (`float`, *optional*, defaults to `1.0`):
            Seconds before the second attempt, at least 0, twice as many before each further one.

    Example:

    ```python
    >>> Retried(Length(4), retries=3)(completions=["one two"])
    [0.5]
    ```
    """

    retries: int = 2
    wait: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, retries=self.retries)
        check_at_least(0, wait=self.wait)
        check_finite(wait=self.wait)

    def __call__(self, *, completions: Sequence[Any], prompts: Prompts = None, **columns: Any) -> Scores:
        inputs = self._inputs(completions, prompts, columns)
        for attempt in range(self.retries):
            try:
                return call_reward(self.reward, **inputs)
            except Exception as error:
                pause = self.wait * 2**attempt
                warnings.warn(
                    f"The reward {self.__name__!r} raised {type(error).__name__}: {str(error).rstrip('.')}. Attempt "
                    f"{attempt + 2} of {self.retries + 1} follows in {pause:g} s.",
                    RuntimeWarning,
                    stacklevel=2,
                )
                time.sleep(pause)
        return call_reward(self.reward, **inputs)


@dataclass(eq=False, repr=False)
class InWorkers(Wrapped):
    """
    Returns the values of another reward, computed in processes of its own, several at a time.

    For a scorer that computes long, waits for another machine or may hang. A batch is cut into chunks, each scored in
    one call of the reward. A chunk that exceeds the timeout is killed together with its worker and all that the worker
    started; a worker that dies is replaced. Workers start with the first call and end with the reward, or with the
    program, even when it is killed. Each has a copy of the reward: a model is loaded `workers` times. Python starts a
    worker by importing the training script, which must run under `if __name__ == "__main__":`. Wrap the parts of a
    sum, as for [`Cached`].

    Args:
        reward (`Callable`):
            That of [`Wrapped`], picklable: a lambda and a function inside a function are not.
        workers (`int`, *optional*, defaults to `4`):
            Processes, at least 1.
        timeout (`float`, *optional*):
            Seconds that a chunk may take, more than 0. The start of a worker is not counted. `None` is no limit.
        retries (`int`, *optional*, defaults to `0`):
            Further attempts at a chunk that failed: that raised, took too long or whose worker died.
        on_failure (`str`, *optional*, defaults to `"raise"`):
            What happens when all attempts at a chunk failed: `"raise"` an error, or `"none"`: a warning and `None` for
            its rows, which then do not count.
        chunk_size (`int`, *optional*):
            Rows of a chunk, at least 1: the smaller, the fewer rows are lost when one fails. By default a batch is
            divided evenly over the workers.

    Attributes:
        failed_rows (`int`): the rows that got `None` because their chunk failed.

    Raises:
        RuntimeError: When called, for a chunk that failed, with the name of the reward, the rows and the reason.
    """

    workers: int = 4
    timeout: float | None = None
    retries: int = 0
    on_failure: str = "raise"
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, workers=self.workers, chunk_size=self.chunk_size)
        check_at_least(0, retries=self.retries)
        check_in(("raise", "none"), on_failure=self.on_failure)
        check_above(0, timeout=self.timeout)
        check_finite(timeout=self.timeout)
        self.failed_rows = 0
        self._parts = ()  # the reward runs in other processes, not in this one
        _ = self._pool  # a reward that cannot be pickled is an error here, not in the first training step

    @functools.cached_property
    def _pool(self) -> Pool:
        try:
            pool = Pool(self.reward, self.__name__, self.workers, self.timeout, self.retries)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise ValueError(
                f"`reward` must be picklable, got {self.__name__!r} ({error}). Make it a function or a class at the "
                "top of a module."
            ) from error
        weakref.finalize(self, pool.close)
        return pool

    def __call__(self, *, completions: Sequence[Any], prompts: Prompts = None, **columns: Any) -> Scores:
        inputs = self._inputs(completions, prompts, columns)
        size = self.chunk_size or max(math.ceil(len(completions) / self.workers), 1)
        chunks = [range(first, min(first + size, len(completions))) for first in range(0, len(completions), size)]
        results = self._pool.score([_rows(inputs, chunk) for chunk in chunks])
        rewards: Scores = []
        for chunk, result in zip(chunks, results, strict=True):
            rewards += self._failed(chunk, result) if isinstance(result, Failure) else result
        return rewards

    def _failed(self, chunk: range, failure: Failure) -> Scores:
        rows = f"row {chunk[0]}" if len(chunk) == 1 else f"rows {chunk[0]} to {chunk[-1]}"
        attempts = f" (attempts: {self.retries + 1})" if self.retries else ""
        error = failure.error(f"The reward {self.__name__!r} failed on {rows} of the batch{attempts}")
        if self.on_failure == "raise":
            raise error
        self.failed_rows += len(chunk)
        warnings.warn(f"{error} {self.failed_rows} rows went without it so far.", RuntimeWarning, stacklevel=3)
        return [None] * len(chunk)
