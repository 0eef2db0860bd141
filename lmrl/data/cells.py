"""What the cells of a row become, checked one by one: a template filled in, a prompt, references."""

import difflib
import string
from collections.abc import Iterable, Mapping
from typing import Any

Prompt = str | list[dict[str, Any]]


def template_fields(template: str, columns: Iterable[str]) -> list[str]:
    """
    Returns the columns that a template names, after checking that it names nothing else.

    Templates come from configuration files, so nothing but a whole column can be reached: `{mr}` is a field,
    `{mr.__class__}`, `{mr[0]}`, `{mr!r}`, `{mr:>9}` and `{}` are refused. `{{` and `}}` are literal braces.

    Args:
        template (`str`):
            The template.
        columns (iterable of `str`):
            Columns that the rows have.

    Returns:
        `list[str]`, in order of appearance, without repetition.

    Raises:
        ValueError: If the template is malformed or a field is not the plain name of a column.
    """
    columns = list(columns)
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(
            f"malformed prompt_template {template!r} ({error}): a field is {{column}}; write {{{{ and }}}} for "
            "literal braces"
        ) from error
    fields = []
    for _, field, spec, conversion in parts:
        if field is None:
            continue
        if spec or conversion or (field not in columns and (not field or any(mark in field for mark in ".[]{}"))):
            raise ValueError(
                f"prompt_template {template!r}: the field {_written(field, conversion, spec)!r} is not a plain column "
                "name; attributes, indices, conversions and formats are not allowed: make a column that holds the text"
            )
        check_column(field, columns, f"prompt_template {template!r}")
        fields.append(field)
    return list(dict.fromkeys(fields))


def joined(value: Any) -> Any:
    """Returns a list of texts as one text, parted by `; `; anything else as it is."""
    is_texts = isinstance(value, list) and value and all(isinstance(text, str) for text in value)
    return "; ".join(value) if is_texts else value


def fill_template(template: str, fields: list[str], row: Mapping[str, Any], number: int) -> str:
    """
    Returns the template filled in with one row; a list of texts is joined by `; `.

    Args:
        template (`str`):
            The template, as checked by [`template_fields`].
        fields (`list[str]`):
            What [`template_fields`] returned.
        row (`Mapping[str, Any]`):
            The row.
        number (`int`):
            Its index, for messages.

    Returns:
        `str`; empty if every field is blank, so that the caller refuses it.

    Raises:
        ValueError: If a cell is null, an object or a list of anything but texts.
    """
    row = {field: joined(row[field]) for field in fields}
    for field in fields:
        if row[field] is None or isinstance(row[field], (list, dict)):
            raise ValueError(
                f"row {number} (the first is 0): column {field!r}, used by prompt_template {template!r}, is "
                f"{row[field]!r}; it must be text, a list of texts or a number: fill it in, or drop the row"
            )
    if fields and all(not str(row[field]).strip() for field in fields):
        return ""
    # Safe: the fields are names of columns and the cells are scalars; vformat would look up dotted names.
    pieces = []
    for literal, name, _, _ in string.Formatter().parse(template):
        pieces += [literal, "" if name is None else str(row[name])]
    return "".join(pieces)


def check_column(name: str, columns: Iterable[str], wanted_by: str) -> None:
    """
    Refuses the name of a column that is not there, with the names that are and the nearest of them.

    Args:
        name (`str`):
            The column asked for.
        columns (iterable of `str`):
            The columns there are.
        wanted_by (`str`):
            Who asks, for the message: `"prompt_column"`.

    Raises:
        ValueError: If the column is missing.
    """
    columns = list(columns)
    if name in columns:
        return
    near = difflib.get_close_matches(name, columns, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{wanted_by}: there is no column {name!r}; the columns are {columns}{hint}")


def make_prompt(prompt: Any, number: int, chat: bool, system_prompt: str | None) -> Prompt:
    """
    Returns one prompt, as a chat where one is asked for. A chat that is one already is checked and taken as it is.

    Args:
        prompt (`Any`):
            The cell, or the template filled in.
        number (`int`):
            Index of the row, for messages.
        chat (`bool`):
            Whether text becomes a chat with one user message.
        system_prompt (`str` or `None`):
            First message of the chat; implies `chat`.

    Returns:
        `str`, or a list of messages.

    Raises:
        ValueError: If the prompt is empty, no text or chat, or would have two system messages.
    """
    where = f"row {number} (the first is 0)"
    system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    if isinstance(prompt, list) and prompt:
        _check_chat(prompt, where)
        if system and any(message["role"] == "system" for message in prompt):
            raise ValueError(
                f"{where}: the chat has a system message, and system_prompt is {system_prompt!r}: keep one of them"
            )
        return [*system, *prompt]
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(
            f"{where}: the prompt is {prompt!r}; it must be text or chat messages, and not empty: fill it in, or drop "
            "the row"
        )
    return [*system, {"role": "user", "content": prompt}] if chat or system else prompt


def make_references(value: Any, number: int, column: str) -> list[str]:
    """
    Returns the references of one row, as a list also where there is one.

    Args:
        value (`Any`):
            The cell.
        number (`int`):
            Index of the row, for messages.
        column (`str`):
            Name of the column, for messages.

    Returns:
        `list[str]`, not empty.

    Raises:
        ValueError: If the cell is not text or a list of texts, or holds none, or an empty one.
    """
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(
            f"row {number} (the first is 0): the reference in column {column!r} is {value!r}; it must be text or a "
            "list of texts, none of them empty: fill it in, drop the row, or rename a column that is not references"
        )
    return texts


def _check_chat(messages: list[Any], where: str) -> None:
    """Refuses a chat of which a message has no role or no content."""
    for message in messages:
        if not isinstance(message, dict) or not message.get("role") or not message.get("content"):
            raise ValueError(
                f"{where}: the chat prompt {messages!r} has a message without role or content, {message!r}: each must "
                'be {"role": ..., "content": ...}'
            )


def _written(field: str, conversion: str | None, spec: str | None) -> str:
    """Returns a parsed field as it stood in the template."""
    return "{" + field + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "") + "}"
