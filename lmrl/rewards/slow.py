"""Rewards that are slow, remote or prone to hang: scored once, or in processes that can be killed."""

import hashlib
import inspect
import json
import math
import pickle
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .algebra import Reward
from .base import call_reward, reward_name
from .workers import Failure, Pool

_OF_THE_TRAINER = ("trainer_state", "log_extra", "log_metric")


class Wrapped(Reward):
    """
    Base of the rewards that change how another one is called, not what it gives.

    Name, range, columns and signature are those of the reward. It is passed what belongs to rows, and nothing of the
    trainer's (`trainer_state`, `log_extra`, `log_metric`), whose values are not those of a row.

    Args:
        reward (`Callable`):
            Any callable that TRL takes as a reward function, `async` ones included.

    Raises:
        ValueError: if it is none, one that needs something of the trainer's, or one with a state to be saved, which
            would depend on what it was not asked.
    """

    def __init__(self, reward: Callable[..., Any]):
        if not callable(reward):
            raise ValueError(f"`reward` must be a reward, something to be called, got {reward!r}.")
        columns = _columns_of(reward)
        if needed := [name for name in _OF_THE_TRAINER if name in columns]:
            raise ValueError(
                f"{type(self).__name__} passes a reward its rows alone, and {reward_name(reward)!r} needs {needed}. "
                "Use it as it is."
            )
        if getattr(reward, "state_dict", dict)():
            raise ValueError(
                f"{reward_name(reward)!r} has a state that every row it scores should change, and "
                f"{type(self).__name__} would keep rows from it. Wrap the rewards it is made of instead."
            )
        super().__init__(reward_name(reward), columns, getattr(reward, "range", (-math.inf, math.inf)))
        self.reward = reward

    @property
    def signature(self) -> str:
        """That of the reward."""
        return str(getattr(self.reward, "signature", self.__name__))

    def use_base_model(self, make_backbone: Callable[[], Any]) -> bool:
        """Returns whether the reward runs on a policy's base from now on."""
        use_base_model = getattr(self.reward, "use_base_model", None)
        return use_base_model is not None and bool(use_base_model(make_backbone))

    def _inputs(self, completions: Sequence[Any], prompts: Sequence[Any] | None, columns: Any) -> dict[str, Any]:
        """Returns what the reward is passed: `completions`, and all else that has one value per completion."""
        rows = self._checked(columns, len(completions))
        if not _reads_its_columns_alone(self.reward):
            rows = {name: value for name, value in columns.items() if _is_per_row(value, len(completions))}
        return {"completions": completions, **({} if prompts is None else {"prompts": prompts}), **rows}


def _columns_of(reward: Callable[..., Any]) -> tuple[str, ...]:
    stated = getattr(reward, "columns", None)
    if stated is not None:
        return tuple(stated)
    parameters = inspect.signature(reward).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.default is p.empty]
    return tuple(p.name for p in named if p.name not in ("completions", "prompts", "completion_ids"))


def _reads_its_columns_alone(reward: Any) -> bool:
    while isinstance(reward, Wrapped):
        reward = reward.reward
    return isinstance(reward, Reward) and type(reward).__call__ is Reward.__call__


def _is_per_row(value: Any, rows: int) -> bool:
    return hasattr(value, "__getitem__") and not isinstance(value, (str, bytes, Mapping)) and len(value) == rows


def _rows(inputs: Mapping[str, Any], rows: Sequence[int]) -> dict[str, list[Any]]:
    return {name: [values[row] for row in rows] for name, values in inputs.items()}


def _digest(inputs: Mapping[str, Any], row: int) -> bytes:
    values = {name: inputs[name][row] for name in sorted(inputs)}
    try:
        content = json.dumps(values).encode()
    except TypeError:  # an image, an array, a date
        content = pickle.dumps(values)
    return hashlib.blake2b(content, digest_size=16).digest()


class Cached(Wrapped):
    """
    Returns what another reward gives, which is asked once for each distinct row.

    Rows are the same if their prompt, completion and columns are: those that the reward states it reads, or all for a
    function that does not. They are compared by a hash of their JSON, of their pickle where a value has none. All rows
    that are not known go to the reward in one call, without repetitions. `None` is remembered too. Only for rewards
    that give the same number every time; the cache is neither pickled nor shared between processes. Of a sum wrap the
    parts: nothing of the trainer's is passed on, so that a sum inside does not log them.

    Args:
        reward (`Callable`):
            Any callable that TRL takes as a reward function, `async` ones included.
        size (`int`, *optional*, defaults to `65536`):
            Rows to remember, at least 1: those used last.

    Raises:
        ValueError: if `reward` cannot be wrapped, or for a `size` less than 1.
    """

    def __init__(self, reward: Callable[..., Any], size: int = 65536):
        super().__init__(reward)
        if size < 1:
            raise ValueError(f"`size` must be at least 1, got {size}.")
        self.size = size
        self._known: OrderedDict[bytes, float | None] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_known": OrderedDict()}

    def __call__(
        self, *, completions: Sequence[Any], prompts: Sequence[Any] | None = None, **columns: Any
    ) -> list[float | None]:
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


class InWorkers(Wrapped):
    """
    Returns what another reward gives, computed in processes of its own, several at a time.

    For a scorer that computes long, waits for another machine or may hang. A batch is cut into chunks, each scored in
    one call of the reward. A chunk that takes too long costs its worker its life, with all that it started; a worker
    that dies is replaced. Workers start with the first call, live until the reward is deleted or the program ends, and
    end with it even when it is killed. Each has a copy of the reward: a model is loaded `workers` times. Python starts
    a worker by importing the training script, which must therefore keep what it runs under
    `if __name__ == "__main__":`. Of a sum wrap the parts: nothing of the trainer's is passed on, so that a sum inside
    does not log them.

    Args:
        reward (`Callable`):
            Any callable that TRL takes as a reward function, `async` ones included. It must be picklable: a lambda and
            a function inside a function are not.
        workers (`int`, *optional*, defaults to `4`):
            Processes, at least 1.
        timeout (`float`, *optional*):
            Seconds that a chunk may take, more than 0. The start of a worker is not counted. Without it a worker that
            hangs is waited for.
        retries (`int`, *optional*, defaults to `0`):
            Further attempts at a chunk that failed: that raised, took too long or whose worker died.
        on_failure (`str`, *optional*, defaults to `"raise"`):
            What a chunk gives whose attempts all failed: `"raise"` an error; `"none"` `None` for its rows, which then
            do not count, with a warning.
        chunk_size (`int`, *optional*):
            Rows of a chunk, at least 1: the fewer, the fewer are lost with one that fails. Defaults to the rows of a
            batch evenly over the workers.

    Attributes:
        failed_rows (`int`): the rows that got `None` because their chunk failed.

    Raises:
        ValueError: if `reward` cannot be wrapped or pickled, or for an argument out of its range.

    The call raises `RuntimeError` for a chunk that failed, with the name of the reward, the rows and the reason.
    """

    def __init__(
        self,
        reward: Callable[..., Any],
        workers: int = 4,
        timeout: float | None = None,
        retries: int = 0,
        on_failure: str = "raise",
        chunk_size: int | None = None,
    ):
        super().__init__(reward)
        if workers < 1 or (chunk_size is not None and chunk_size < 1):
            raise ValueError(f"`workers` and `chunk_size` must be at least 1, got {workers} and {chunk_size}.")
        if timeout is not None and not timeout > 0:
            raise ValueError(f"`timeout` is in seconds and must be more than 0, or None, got {timeout}.")
        if retries < 0:
            raise ValueError(f"`retries` must be at least 0, got {retries}.")
        if on_failure not in ("raise", "none"):
            raise ValueError(f"`on_failure` must be 'raise' or 'none', got {on_failure!r}.")
        self.workers = workers
        self.timeout = timeout
        self.retries = retries
        self.on_failure = on_failure
        self.chunk_size = chunk_size
        self.failed_rows = 0
        self._make_pool()

    def _make_pool(self) -> None:
        try:
            self._pool = Pool(self.reward, self.__name__, self.workers, self.timeout, self.retries)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise ValueError(
                f"The reward {self.__name__!r} cannot be sent to a worker process: {error}. Make it a function or a "
                "class at the top of a module."
            ) from error
        weakref.finalize(self, self._pool.close)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_pool"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._make_pool()

    def use_base_model(self, make_backbone: Callable[[], Any]) -> bool:
        """Returns that it runs on no policy's base: workers have a memory of their own."""
        return False

    def __call__(
        self, *, completions: Sequence[Any], prompts: Sequence[Any] | None = None, **columns: Any
    ) -> list[float | None]:
        inputs = self._inputs(completions, prompts, columns)
        size = self.chunk_size or max(math.ceil(len(completions) / self.workers), 1)
        chunks = [range(first, min(first + size, len(completions))) for first in range(0, len(completions), size)]
        answers = self._pool.score([_rows(inputs, chunk) for chunk in chunks])
        rewards: list[float | None] = []
        for chunk, answer in zip(chunks, answers, strict=True):
            rewards += self._failed(chunk, answer) if isinstance(answer, Failure) else answer
        return rewards

    def _failed(self, chunk: range, failure: Failure) -> list[float | None]:
        rows = f"row {chunk[0]}" if len(chunk) == 1 else f"rows {chunk[0]} to {chunk[-1]}"
        attempts = f" (attempts: {self.retries + 1})" if self.retries else ""
        error = failure.error(f"The reward {self.__name__!r} failed on {rows} of the batch{attempts}")
        if self.on_failure == "raise":
            raise error
        self.failed_rows += len(chunk)
        warnings.warn(f"{error} {self.failed_rows} rows went without it so far.", RuntimeWarning, stacklevel=3)
        return [None] * len(chunk)
