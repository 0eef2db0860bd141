"""Checks and messages that every room uses. Standard library only."""

import ast
import difflib
import functools
import inspect
import json
import linecache
import math
import os
import sys
import sysconfig
import textwrap
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field, fields
from numbers import Real
from pathlib import Path
from types import FrameType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

# Arguments that a reward is called with besides the columns of the data, by TRL and, as a method, by Python.
REWARD_ARGUMENTS = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "self")
# Columns that the data may not have: TRL takes the last two for pictures, and their prompts for multimodal chats.
RESERVED_COLUMNS = (*REWARD_ARGUMENTS, "image", "images")
NOT_PASSED = ("prompt", "completion")  # columns that TRL does not pass on under their names

# A folder with a model or an adapter has one of these files.
MODEL_CONFIGS = ("config.json", "adapter_config.json")

# Environment variable with the command that the user gave, where `lmrl run` replaces it by another.
COMMAND_VARIABLE = "LMRL_COMMAND"


def option(default: Any, description: str) -> Any:
    """Returns a field of a dataclass of arguments, with the description that `--help` shows."""
    return field(default=default, metadata={"help": description})


def check_at_least(minimum: float, **values: float | None) -> None:
    """
    Raises a `ValueError` for the first value below a minimum, NaN, or no number; `None` is no value and passes. Values
    are passed by the names under which users know them.
    """
    for name, value in values.items():
        if value is not None and not (isinstance(value, Real) and value >= minimum):
            raise ValueError(f"`{name}` must be at least {minimum}, got {value!r}.")


def check_above(limit: float, **values: float | None) -> None:
    """Raises a `ValueError` for the first value that is not above a limit; values as in [`check_at_least`]."""
    for name, value in values.items():
        if value is not None and not (isinstance(value, Real) and value > limit):
            raise ValueError(f"`{name}` must be above {limit}, got {value!r}.")


def refuse(rules: Mapping[str, object]) -> None:
    """Raises a `ValueError` with the first message in a table whose condition holds."""
    for sentence, applies in rules.items():
        if applies:
            raise ValueError(sentence)


def check_finite(**values: float | None) -> None:
    """Raises a `ValueError` for the first value that is infinite or NaN; values as in [`check_at_least`]."""
    for name, value in values.items():
        if value is not None and not (isinstance(value, Real) and math.isfinite(value)):
            raise ValueError(f"`{name}` must be finite, got {value!r}.")


def check_in(choices: Collection[str], **values: str | None) -> None:
    """
    Raises a `ValueError` for the first value that is not one of the choices, with the closest one if one is close;
    values as in [`check_at_least`].
    """
    for name, value in values.items():
        if value is not None and value not in choices:
            raise ValueError(
                f"`{name}` must be one of {', '.join(choices)}, got {value!r}.{did_you_mean(str(value), choices)}"
            )


def members_of(hint: Any) -> Sequence[Any]:
    """Returns the types in a union; for any other type, only that type."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def check_literals(config: Any) -> None:
    """Raises the error of [`check_in`] for a field of a dataclass whose type is a `Literal`, or that or `None`."""
    for argument in fields(config):
        kind = next(member for member in members_of(argument.type) if member is not NoneType)
        if get_origin(kind) is Literal:
            check_in(get_args(kind), **{argument.name: getattr(config, argument.name)})


def did_you_mean(name: str, known: Iterable[str], prefix: str = "", cutoff: float = 0.6) -> str:
    """
    Returns ` Did you mean `<closest>`?`, to be appended to a message, or an empty string if nothing is close. `prefix`
    is written before the closest name, for example `--`; `cutoff` is the least similarity of both names, in [0, 1].
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f" Did you mean `{prefix}{close[0]}`?" if close else ""


def parse_json(text: str) -> Any:
    """Returns the value of a JSON text that a user wrote; raises a `ValueError` for a key that an object has twice."""
    return json.loads(text, object_pairs_hook=_unique_keys)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        key = next(key for key in made if keys.count(key) > 1)
        values = " and ".join(shorten(value, 40) for name, value in pairs if name == key)
        raise ValueError(f"the key {key!r} is there {keys.count(key)} times, with {values}")
    return made


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Gives an object's attribute another value in the context; afterwards an attribute of its class shows again."""
    kept = {name: vars(owner)[name]} if name in vars(owner) else {}
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name)
        vars(owner).update(kept)


@contextmanager
def known_as(argument: str) -> Iterator[None]:
    """Replaces `name_or_path` in the message of a `ValueError` by the argument with which the user gave it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(str(error).replace("`name_or_path`", f"`{argument}`")) from error


def shorten(value: object, limit: int = 80) -> str:
    """Returns the `repr` of a value, cut after `limit` characters with an ellipsis."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def aligned_lines(values: Mapping[str, str], width: int = 100) -> str:
    """Returns lines of names and texts in two columns, texts wrapped to `width` characters."""
    indent = max(map(len, values)) + 2
    lines = []
    for name, text in values.items():
        parts = textwrap.wrap(text, width - indent, break_on_hyphens=False) or [""]
        lines += [f"{name:<{indent}}{parts[0]}", *(" " * indent + part for part in parts[1:])]
    return "\n".join(line.rstrip() for line in lines)


def reason_of(error: BaseException) -> str:
    """Returns the first line of a library's error, after its type unless that is an `OSError` or `ValueError`."""
    line = str(error).strip().split("\n")[0].rstrip(".")
    return line if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {line}"


def loading_problem(name_or_path: str | Path, error: BaseException) -> str:
    """Returns why nothing was loaded from a name: there is no such folder, it has no model, or a library's reason."""
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return "it is a file, not a folder"
    if path.is_dir() and not any((path / name).is_file() for name in MODEL_CONFIGS):
        return f"the folder has neither {' nor '.join(MODEL_CONFIGS)}"
    if path.exists():
        return reason_of(error)
    beside = [f"{path.parent / place.name}" for place in path.parent.iterdir()] if path.parent.is_dir() else []
    return f"there is no folder {str(path)!r}.{did_you_mean(str(path), beside)} From the hub: {reason_of(error)}"


def read_adapter_config(folder: str | Path) -> dict[str, Any] | None:
    """Returns the configuration of an adapter from its folder, `None` without one; a `ValueError` if it is damaged."""
    path = Path(folder, "adapter_config.json").expanduser()
    if not path.is_file():
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path} must be the configuration of an adapter in JSON, got {error}.") from error


def tokenize_prompt(tokenizer: Any, prompt: Any, row: int, **chat_template_kwargs: Any) -> list[int]:
    """
    Returns the token ids of a prompt as in training, of a chat by the chat template with the generation prompt added.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer of the policy.
        prompt (`str` or `list[dict]`):
            Text, or chat messages.
        row (`int`):
            Index of the row, for messages.
        **chat_template_kwargs:
            Variables of the chat template, such as `enable_thinking`.

    Raises:
        ValueError: If there is no chat template, it refuses the messages, or there are variables for a text.
    """
    if isinstance(prompt, str):
        if chat_template_kwargs:
            raise ValueError(
                f"`chat_template_kwargs` must be left out for prompts that are texts, got {chat_template_kwargs} with "
                f"such a prompt in row {row}. Set `chat`, or leave them out."
            )
        return list(tokenizer(text=prompt)["input_ids"])
    if getattr(tokenizer, "chat_template", None) is None:
        raise ValueError(
            f"A chat must have a tokenizer with a chat template, got none for the prompt of row {row}. Leave out "
            "`chat` and `system_prompt`, or set `tokenizer.chat_template`."
        )
    try:
        encoding = tokenizer.apply_chat_template(
            prompt, add_generation_prompt=True, tokenize=True, return_dict=True, **chat_template_kwargs
        )
    except Exception as error:  # a template is a program, which may raise any exception
        raise ValueError(
            f"The prompt of row {row} must be a chat that the tokenizer's chat template accepts, got "
            f"{shorten(prompt)} ({reason_of(error)}). Change the messages (leave out `system_prompt`, or put it into "
            "the user's message), or the template."
        ) from error
    return list(encoding["input_ids"])


def check_token_ids(rows: Iterable[Sequence[int]], vocabulary: int) -> None:
    """
    Raises a `ValueError` for the first row, counted from 0, with a token that a model of `vocabulary` tokens does not
    have.
    """
    for row, ids in enumerate(rows):
        if ids and max(ids) >= vocabulary:
            raise ValueError(
                f"Token ids must be below {vocabulary}, the size of the model's vocabulary, got {max(ids)} in row "
                f"{row}. A token was added to the tokenizer and not to the model: resize the model "
                "(`resize_token_embeddings`) and train it, or remove the token."
            )


def columns_of(reward_func: Callable[..., Any], known: Collection[str] = REWARD_ARGUMENTS) -> list[str]:
    """Returns the columns that a reward reads: its `columns`, or else its required arguments, without known ones."""
    stated = getattr(reward_func, "columns", None)
    if stated is not None:
        return list(stated)
    parameters = inspect.signature(reward_func).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.default is p.empty]
    return [p.name for p in named if p.name not in known]


def missing_columns(reward_func: Callable[..., Any], columns: Collection[str]) -> list[str]:
    """Returns the columns that a reward reads and that are not there, or not passed on."""
    return [column for column in columns_of(reward_func) if column not in columns or column in NOT_PASSED]


def check_prompts(
    name: str,
    prompt_ids: Sequence[Sequence[int]],
    new_tokens: int,
    limits: Mapping[str, int | None],
    vocabulary: int,
    images: Any = None,
) -> None:
    """
    Raises a `ValueError` for a prompt of the data set `name` that is empty or has a token outside the vocabulary, for
    images, or if the longest prompt and `new_tokens` exceed one of `limits`, the contexts of models by their kind.
    """
    if images is not None:
        raise ValueError(
            f"The prompts of {name} must have no images, got some. Completions are scored as text: leave them out."
        )
    lengths = [len(ids) for ids in prompt_ids]
    if 0 in lengths:
        raise ValueError(f"Row {lengths.index(0)} of {name} has an empty prompt. Give it at least one token.")
    longest = max(lengths)
    for kind, limit in limits.items():
        if limit is not None and longest + new_tokens > limit:
            raise ValueError(
                f"`max_completion_length` must be at most {max(limit - longest, 1)}, got {new_tokens}. The prompt of "
                f"row {lengths.index(longest)} of {name} has {longest} tokens, which makes {longest + new_tokens}, "
                f"more than the {kind}'s context of {limit}. Lower it, or drop or cut long prompts "
                "(lmrl.data.fit_prompts)."
            )
    check_token_ids(prompt_ids, vocabulary)


def labelled(option: str, values: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """
    Returns paths by label, from `label=path`, or labelled by the last part of the path.

    Raises a `ValueError` that names the argument `option` if a label occurs twice or is among those taken.
    """
    paths: dict[str, str] = {}
    for value in values:
        label, equals, path = value.partition("=")
        if not equals or "/" in label:  # the folder of a run may have an equals sign in its name
            label = value.rstrip("/").split("/")[-1]
            path = value
        if label in paths or label in taken:
            raise ValueError(f"`{option}` must have different labels, got {label!r} twice. Write label=path.")
        paths[label] = path
    return paths


def failure_of(error: BaseException, inputs: Mapping[str, Any]) -> str:
    """Returns `raised <error>`, the row at which a reward raised it, and the user's file and line."""
    completions = inputs["completions"]
    row = row_of(error, inputs)
    if row is None:
        place = f"{len(completions)} completions, the first of them {shorten(completions[0])}"
    else:
        place = f"row {row} of {len(completions)} (the first is 0), " if len(completions) > 1 else ""
        place += f"the completion {shorten(completions[row])}"
        place += f" of the prompt {shorten(inputs['prompts'][row])}" if inputs.get("prompts") else ""
    raised = f"{type(error).__name__}: {str(error).rstrip('.')}"
    remedy = ""
    if "() got an unexpected keyword argument" in raised:
        remedy = " It is called with each column of the data: end its arguments with `**columns`."
    if "'list'" in raised and not isinstance(completions[0], str):
        remedy = " A completion of a chat is a list of messages: `lmrl.rewards.on_text` gives a function the texts."
    return f"raised {raised}. It was scoring {place}.{remedy}{line_of(error)}"


def row_of(error: BaseException, inputs: Mapping[str, Any]) -> int | None:
    """
    Returns the row that a function was at when it raised an error, or `None` if its frames do not show one.

    A frame shows a row if a variable holds an object of that row: an argument, the variable of a loop around the line,
    or a name on the line. The function is not called again, as a call may cost money or change something.

    Args:
        error (`BaseException`):
            What it raised, with its traceback.
        inputs (`Mapping`):
            What it was called with: `completions`, and others, of which the lists with as many entries are read.
    """
    completions = inputs["completions"]
    columns = [v for v in inputs.values() if isinstance(v, list | tuple) and len(v) == len(completions)]
    rows = set(range(len(completions)))
    for frame, line in traceback.walk_tb(error.__traceback__):
        for name in _names_at(frame, line):
            value = frame.f_locals.get(name)
            if isinstance(value, str | list | dict):  # a small integer is one object wherever it occurs
                rows = {row for row in rows for column in columns if _holds(column[row], value)} or rows
    # A prompt shared by completions that differ does not show which of them it was.
    first = min(rows, default=0)
    return first if rows and all(completions[row] == completions[first] for row in rows) else None


def _names_at(frame: FrameType, line: int) -> set[str]:
    """Returns the arguments of a frame's function, and the names on a line and in the heads of the loops around it."""
    code = frame.f_code
    names = set(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
    try:
        tree = ast.parse("".join(linecache.getlines(code.co_filename, frame.f_globals)))
    except SyntaxError:  # no file of Python, such as the template of a chat
        return names
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.lineno == line:
            names.add(node.id)
        loops = [node] if isinstance(node, ast.For | ast.AsyncFor) else getattr(node, "generators", [])
        if loops and getattr(node, "lineno", 0) <= line <= getattr(node, "end_lineno", 0):
            names |= {part.id for loop in loops for part in ast.walk(loop.target) if isinstance(part, ast.Name)}
    return names


def _holds(cell: Any, value: Any) -> bool:
    """Returns whether a cell is the object or contains it: a reference of a list, a message of a chat, its content."""
    parts = cell.values() if isinstance(cell, Mapping) else cell if isinstance(cell, list | tuple) else ()
    return cell is value or any(_holds(part, value) for part in parts)


def line_of(error: BaseException) -> str:
    """Returns ` See <file>, line <n>.`, the last line of the user's own code that an error came from, or nothing."""
    paths = sysconfig.get_paths()
    installed = (str(Path(__file__).parent), paths["stdlib"], paths["purelib"], paths["platlib"])
    others = (*(f"{folder}{os.sep}" for folder in installed), "<")
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(others)]
    return f" See {own[-1].filename}, line {own[-1].lineno}." if own else ""


def name_of(function: Any) -> str:
    """Returns the name of a function, for `functools.partial` that of the inner one, or else of the value's class."""
    function = function.func if isinstance(function, functools.partial) else function
    return str(getattr(function, "__name__", type(function).__name__))


def is_picklable(value: Any) -> bool:
    """Returns whether a value is no function, or one that another process can find by its name, unlike a lambda."""
    module = sys.modules.get(getattr(value, "__module__", ""))
    return not callable(value) or getattr(module, getattr(value, "__qualname__", ""), None) is value
