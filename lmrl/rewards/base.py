"""The base class of rewards, without operators, and functions that call any reward and read its texts."""

import functools
import inspect
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

from lmrl.display import reward_card
from lmrl.progress import Prefixes, Progress, join_progress
from lmrl.utils import name_of, shorten

Prompts: TypeAlias = Sequence[Any] | None
Columns: TypeAlias = Mapping[str, Sequence[Any]]
Scores: TypeAlias = list[float | None]
Range: TypeAlias = tuple[float, float]

UNBOUNDED: Range = (-math.inf, math.inf)


class BaseReward:
    """A reward without operators: name, columns, range, signature, and the call by keyword. See [`Reward`]."""

    __name__: str
    columns: tuple[str, ...]
    range: Range
    potential: int | None = None  # index of the number in `progress` that is the reward as if the text ended here
    _parts: tuple[Callable[..., Any], ...] = ()  # other rewards that this one calls in this process
    _repr_html_ = reward_card

    def __init__(
        self, name: str, columns: Sequence[str] = (), range: Range = (0.0, 1.0), signature: str | None = None
    ):
        if not isinstance(name, str) or not name:
            raise ValueError(f"`name` must be a non-empty string, got {name!r}. Trainers log the reward under it.")
        self.__name__ = name
        self.columns = tuple(columns)
        self.range = range
        self._signature = name if signature is None else signature

    @property
    def signature(self) -> str:
        """Name and all settings that are needed to compute the same numbers again."""
        return self._signature

    def scores(self, completions: list[str], prompts: Prompts, columns: Columns) -> Scores:
        """Returns the reward of each text; `columns` has the columns in `self.columns`, each with a row per text."""
        raise NotImplementedError(
            f"{type(self).__name__} must define `scores`, or `__call__` to read more than texts."
        )

    def __call__(self, *, completions: Sequence[Any], prompts: Prompts = None, **columns: Any) -> Scores:
        texts = [completion_text(completion) for completion in completions]
        return self.scores(texts, prompts, self._checked(columns, len(texts)))

    def _checked(self, columns: Mapping[str, Any], rows: int) -> dict[str, Sequence[Any]]:
        for column in self.columns:
            if columns.get(column) is None:
                raise ValueError(
                    f"The reward {self.__name__!r} needs the column {column!r}, got {sorted(columns)}. Add the column "
                    "to the dataset, not as 'prompt' or 'completion', which TRL does not pass on; name another one if "
                    "the reward has an argument `column`; and keep it there (`remove_unused_columns=False`)."
                )
            if len(columns[column]) != rows:
                raise ValueError(
                    f"The reward {self.__name__!r} needs one row of {column!r} per completion, got "
                    f"{len(columns[column])} rows for {rows} completions. Repeat it for each completion of a prompt."
                )
        return {column: columns[column] for column in self.columns}

    def progress(self, *, prefixes: Sequence[Prefixes], **columns: Any) -> Progress:
        """Returns numbers for each prefix of each text, as [`join_progress`] does: here those of the parts, if any."""
        return join_progress(self._parts, prefixes, **columns)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state that changes in training, JSON-serializable: trainers save it with every checkpoint."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the result of [`state_dict`]."""
        if state:
            raise ValueError(f"The state of the reward {self.__name__!r} must be empty, got {dict(state)}.")

    def use_base_model(self, make_backbone: Callable[[], Any]) -> bool:
        """
        Moves the reward models in it to a policy's base model if they fit, returns if any did. See [`RewardModel`].

        A trainer with a LoRA policy calls this before training, on every reward that has the method.

        Args:
            make_backbone (`Callable`):
                Returns the policy's backbone without its head and its adapters, in new modules around the policy's
                frozen weights.
        """
        parts = [part for part in self._parts if hasattr(part, "use_base_model")]
        return any([part.use_base_model(make_backbone) for part in parts])

    def __getstate__(self) -> dict[str, Any]:
        """Leaves cached properties out of a pickle: caches, pools of processes, and models, which are loaded again."""
        cached = functools.cached_property
        return {key: value for key, value in vars(self).items() if not isinstance(getattr(type(self), key, 0), cached)}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.signature})"


def completion_text(completion: str | Sequence[Mapping[str, Any]]) -> str:
    """
    Returns the text that the model wrote in a completion.

    Of a conversation, these are the messages of the assistant, joined by newlines. Messages of other roles (the result
    of a tool) are not generated by the model and are left out.

    Args:
        completion (`str` or `list[dict]`):
            A text, or chat messages such as `[{"role": "assistant", "content": "Hello."}]`. A content may be a list of
            parts, of which the `{"type": "text", "text": ...}` ones are read.

    Raises:
        ValueError: If the completion is neither.

    Example:

    ```python
    >>> completion_text([{"role": "assistant", "content": "Hello."}])
    'Hello.'
    ```
    """
    if isinstance(completion, str):
        return completion
    if isinstance(completion, (list, tuple)) and all(isinstance(message, Mapping) for message in completion):
        generated = [message for message in completion if message.get("role", "assistant") == "assistant"]
        return "\n".join(map(_content, generated))
    raise ValueError(
        f"A completion must be a string or a list of chat messages, got {completion!r}. Decode token ids first."
    )


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""  # a message that only calls a tool has none
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content if part.get("type", "text") == "text")


def prompt_text(prompt: Any) -> str:
    """Returns the text of a prompt; of a chat, the contents of its messages joined by newlines."""
    return prompt if isinstance(prompt, str) else "\n".join(map(_content, prompt))


def on_text(fn: Callable[..., Any]) -> Callable[..., Any]:
    """
    Decorates a function that reads texts, so that it is a reward of chats too.

    The function receives the [`completion_text`] of each completion and the contents of each prompt's messages, joined
    by newlines. Texts and other columns are passed on unchanged. The function may be `async`.

    Example:

    ```python
    >>> @on_text
    ... def is_short(completions, **columns):
    ...     return [float(len(text) < 9) for text in completions]
    >>> is_short(completions=[[{"role": "assistant", "content": "Hello."}], "A much longer text."])
    [1.0, 0.0]
    ```
    """

    def _texts(inputs: dict[str, Any]) -> dict[str, Any]:
        made = {"completions": [completion_text(completion) for completion in inputs["completions"]]}
        if inputs.get("prompts") is not None:
            made["prompts"] = [prompt_text(prompt) for prompt in inputs["prompts"]]
        return inputs | made

    @functools.wraps(fn)
    def _reward(**inputs: Any) -> Any:
        return fn(**_texts(inputs))

    @functools.wraps(fn)
    async def _async_reward(**inputs: Any) -> Any:
        return await fn(**_texts(inputs))

    return _async_reward if inspect.iscoroutinefunction(fn) else _reward


def call_reward(reward: Callable[..., Any], **inputs: Any) -> Scores:
    """
    Returns the rewards of a batch, one number or `None` per completion.

    An `async` reward is awaited in a new event loop for each call: a client that it keeps from call to call must not
    be tied to one event loop.

    Args:
        reward (`Callable`):
            Any callable that TRL takes as a reward function.
        **inputs:
            Its arguments: `completions`, and `prompts` and columns as it needs them.

    Raises:
        ValueError: If it does not return one value per completion.
    """
    values = reward(**inputs)
    if inspect.isawaitable(values):
        values = _run(values)
    try:
        numbers = [None if value is None else float(value) for value in values]
    except (TypeError, ValueError):  # no list, or not of numbers
        numbers = []
    if len(numbers) != len(inputs["completions"]):
        raise ValueError(
            f"The reward {name_of(reward)!r} must return a list of one number, or None, per completion, got "
            f"{shorten(values)} for a batch of {len(inputs['completions'])}."
        )
    return numbers


async def _wait_for(values: Awaitable[Any]) -> Any:
    return await values


def _run(values: Awaitable[Any]) -> Any:
    import asyncio  # here, as its import takes as long as that of all rewards together
    from concurrent.futures import ThreadPoolExecutor

    # In a thread of its own: in a notebook this thread already runs an event loop, and a thread can run only one.
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, _wait_for(values)).result()


def range_of(reward: Any) -> Range:
    """Returns the lowest and highest possible reward, infinite for a plain function."""
    return cast(Range, getattr(reward, "range", UNBOUNDED))


def signature_of(reward: Any) -> str:
    """Returns the signature of a reward, for a plain function its name."""
    return str(getattr(reward, "signature", name_of(reward)))


def as_text(number: float) -> str:
    """Returns a number in its short form (`:g`) if that loses no digit, else all its digits."""
    return f"{number:g}" if float(f"{number:g}") == number else repr(float(number))
