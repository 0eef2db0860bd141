"""What a reward is: an object called by keyword with texts and columns that gives one number per completion."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from .arithmetic import Arithmetic


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if content is None:  # a message that only calls a tool
        return ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content if part.get("type", "text") == "text")


def completion_text(completion: str | Sequence[Mapping[str, Any]]) -> str:
    """
    Returns the text that the model wrote in a completion.

    Of a conversation, that is what the assistant said: its messages joined by newlines. Messages of other roles (a
    tool's answer) are no work of the model and are left out.

    Args:
        completion (`str` or `list[dict]`):
            A text, or chat messages such as `[{"role": "assistant", "content": "Hello."}]`. A content may be a list of
            parts, of which the `{"type": "text", "text": ...}` ones are read.

    Returns:
        `str`: the text.

    Raises:
        ValueError: if the completion is neither.

    Example:

    ```python
    >>> completion_text([{"role": "assistant", "content": "Hello."}])
    'Hello.'
    ```
    """
    if isinstance(completion, str):
        return completion
    if isinstance(completion, (list, tuple)) and all(isinstance(message, Mapping) for message in completion):
        said = [message for message in completion if message.get("role", "assistant") == "assistant"]
        return "\n".join(map(_content, said))
    raise ValueError(
        f"A completion is a string or a list of chat messages, got {completion!r}. Decode token ids to text first."
    )


class Reward(Arithmetic, ABC):
    """
    Base of every reward: `reward(completions=..., prompts=..., **columns)` returns one number per completion.

    The same object is a `reward_funcs` entry of any TRL trainer and a metric of evaluation. It is called by keyword
    only; what it has no use for (`completion_ids`, `trainer_state`, other columns ...) it ignores. `None` in place of
    a number means "not applicable to this row". A reward can be pickled.

    Args:
        name (`str`):
            Name under which trainers log it; becomes `__name__`.
        columns (`Sequence[str]`, *optional*, defaults to `()`):
            Dataset columns it reads.
        range (`tuple[float, float]`, *optional*, defaults to `(0.0, 1.0)`):
            Lowest and highest reward it can give.
    """

    __name__: str
    columns: tuple[str, ...]
    range: tuple[float, float]

    def __init__(self, name: str, columns: Sequence[str] = (), range: tuple[float, float] = (0.0, 1.0)):
        if not isinstance(name, str) or not name:
            raise ValueError(f"The name of a reward must be a non-empty string, got {name!r}. Trainers log under it.")
        self.__name__ = name
        self.columns = tuple(columns)
        self.range = range

    @property
    @abstractmethod
    def signature(self) -> str:
        """All that must be known to compute the same numbers again, as `name|key:value|...`."""

    def scores(
        self, completions: list[str], prompts: Sequence[Any] | None, columns: Mapping[str, Sequence[Any]]
    ) -> list[float | None]:
        """Returns the reward of each text; `columns` holds those of `self.columns`, checked to have as many rows."""
        raise NotImplementedError(
            f"{type(self).__name__} must define `scores`, or `__call__` to read more than texts."
        )

    def __call__(
        self, *, completions: Sequence[Any], prompts: Sequence[Any] | None = None, **columns: Any
    ) -> list[float | None]:
        texts = [completion_text(completion) for completion in completions]
        return self.scores(texts, prompts, self._checked(columns, len(texts)))

    def _checked(self, columns: Mapping[str, Any], rows: int) -> dict[str, Sequence[Any]]:
        for column in self.columns:
            if columns.get(column) is None:
                raise ValueError(
                    f"The reward {self.__name__!r} reads the column {column!r}, which is not among the columns it was "
                    f"given: {sorted(columns)}. Add the column to the dataset, name another one if the reward takes "
                    f"`column=`, and keep it there (`remove_unused_columns=False`)."
                )
            if len(columns[column]) != rows:
                raise ValueError(
                    f"The reward {self.__name__!r} was given {len(columns[column])} rows of {column!r} for {rows} "
                    f"completions. Pass one row per completion: repeat the row for completions of the same prompt."
                )
        return {column: columns[column] for column in self.columns}

    def state_dict(self) -> dict[str, Any]:
        """Returns what it has learned in training, as JSON can hold it: trainers save it with every checkpoint."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what [`state_dict`] returned."""
        if state:
            raise ValueError(f"The reward {self.__name__!r} learns nothing in training, and was given {dict(state)}.")

    def use_base_model(self, make_backbone: Callable[[], Any]) -> bool:
        """
        Returns whether it, or a reward it is made of, runs on a policy's base from now on: see [`RewardModel`].

        A trainer with a LoRA policy calls it on every reward that has it, before training.

        Args:
            make_backbone (`Callable`):
                Returns the policy's backbone without its head and its adapters, in modules made for the caller around
                the policy's frozen weights.
        """
        parts: tuple[Any, ...] = getattr(self, "components", ())
        return any([part.use_base_model(make_backbone) for part in parts if hasattr(part, "use_base_model")])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.signature})"


def reward_name(reward: Callable[..., Any]) -> str:
    """Returns the name under which a reward of any kind is logged."""
    return str(getattr(reward, "__name__", type(reward).__name__))


def call_reward(reward: Callable[..., Any], **inputs: Any) -> list[float | None]:
    """
    Returns what a reward of any kind gives, one number or `None` per completion.

    An `async` reward is run to its end, in an event loop of its own: a client that it keeps from call to call must not
    be tied to one loop.

    Args:
        reward (`Callable`):
            Any callable that TRL takes as a reward function.
        inputs:
            What it is called with: `completions`, and `prompts` and columns as it needs them.

    Raises:
        ValueError: if it does not give one value per completion.
    """
    values = reward(**inputs)
    if inspect.isawaitable(values):
        values = _awaited(values)
    numbers = [None if value is None else float(value) for value in values]
    if len(numbers) != len(inputs["completions"]):
        raise ValueError(
            f"The reward {reward_name(reward)!r} returned {len(numbers)} values for {len(inputs['completions'])} "
            "completions."
        )
    return numbers


def call_rewards(rewards: Mapping[str, Callable[..., Any]], **inputs: Any) -> dict[str, list[float | None]]:
    """
    Returns [`call_reward`] of each, by name; raises the first failure when all were called.

    One that comes later may have its like waiting for it in another process.
    """
    results, failures = {}, []
    for name, reward in rewards.items():
        try:
            results[name] = call_reward(reward, **inputs)
        except Exception as error:
            failures.append(error)
    if failures:
        raise failures[0]
    return results


async def _wait_for(values: Awaitable[Any]) -> Any:
    return await values


def _awaited(values: Awaitable[Any]) -> Any:
    import asyncio  # it takes as long to import as all rewards together

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_wait_for(values))
    from concurrent.futures import ThreadPoolExecutor

    # A notebook runs a loop in this thread, and a thread can run one only.
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, _wait_for(values)).result()
