"""Conversion and validation of single cells: filled-in templates, prompts, references."""

import string
from collections.abc import Mapping
from typing import Any

from lmrl.libraries import Dataset
from lmrl.utils import did_you_mean, shorten

Prompt = str | list[dict[str, Any]]


def fill_fields(template: str, rows: Dataset) -> list[str]:
    """
    Returns the template filled in with each row. A list of texts is joined by `; `, or by the text after a colon in
    the field: `{concepts:, }` joins the list by a comma and a space.

    As templates come from configuration files, fields can only be names of columns: `{mr}` is a field, while
    `{mr.__class__}`, `{mr[0]}`, `{mr!r}` and `{}` are refused. `{{` and `}}` are literal braces.

    A text is empty if every field of its row is blank, so that [`make_prompt`] refuses it.

    Raises:
        ValueError: If the template is malformed, a field is not the plain name of a column, a cell is null, NaN, an
            object, bytes or a list of anything but texts, or a field has a separator and its cell is no list.
    """
    parts = _template_parts(template, rows.column_names)
    return [_filled_in(parts, row, number) for number, row in enumerate(rows)]


def parse_template(template: str) -> list[tuple[str, str | None, str | None, str | None]]:
    """Returns each literal text of a template, the field that follows it, and that field's format and conversion."""
    try:
        return list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(
            f"`prompt_template` must have fields such as {{column}}, got the malformed {template!r} ({error}). Write "
            "{{ and }} for literal braces."
        ) from error


def _template_parts(template: str, columns: list[str]) -> list[tuple[str, str | None, str]]:
    """Returns each literal text of a template, the column that follows it, and the separator of the column's lists."""
    parts = parse_template(template)
    for _, field, spec, conversion in parts:
        if field is None:
            continue
        nested = "{" in (spec or "")
        if nested or conversion or (field not in columns and (not field or any(mark in field for mark in ".[]{}"))):
            written = "{" + field + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "") + "}"
            raise ValueError(
                f"A field of `prompt_template` must be a plain column name, got {written!r} in {template!r}. Make a "
                "column with the text, in place of an attribute, an index or a format."
            )
        check_column(field, columns, "prompt_template")
    return [(literal, field, spec or "") for literal, field, spec, _ in parts]


def _filled_in(parts: list[tuple[str, str | None, str]], row: Mapping[str, Any], number: int) -> str:
    cells = [None if field is None else joined(row[field], separator or "; ") for _, field, separator in parts]
    for (_, field, separator), cell in zip(parts, cells, strict=True):
        if field is None:
            continue
        if separator and not isinstance(row[field], list):
            raise ValueError(
                f"`{{{field}:{separator}}}` of `prompt_template` joins a list by what follows the colon, so column "
                f"{field!r} must have lists, got {shorten(row[field])} in {place_of(number)}. Write {{{field}}}."
            )
        if cell is None or cell != cell or isinstance(cell, (list, dict, bytes)):  # NaN
            raise ValueError(
                f"Column {field!r} of `prompt_template` must have text, a list of texts or a number, got "
                f"{shorten(cell)} in {place_of(number)}. Fill it in, or drop the row."
            )
    texts = ["" if cell is None else str(cell) for cell in cells]
    if any(field is not None for _, field, _ in parts) and not "".join(texts).strip():
        return ""
    # Safer than str.format, which would look up attributes in fields with a dot: here fields are names of columns.
    return "".join(literal + text for (literal, _, _), text in zip(parts, texts, strict=True))


def joined(value: Any, separator: str = "; ") -> Any:
    """Returns a list of texts as one text, with a separator between them; anything else unchanged."""
    is_texts = isinstance(value, list) and value and all(isinstance(text, str) for text in value)
    return separator.join(value) if is_texts else value


def check_column(name: str, columns: list[str], argument: str) -> None:
    """Raises a `ValueError` if a column does not exist; `argument` is the user's setting, such as "prompt_column"."""
    if name not in columns:
        hint = did_you_mean(name, columns)
        if not hint and not all(column.isidentifier() for column in columns):
            hint = " If these are a row of data, the file has no header: name its columns with `column_names`."
        if not hint and argument == "prompt_column":
            hint = " Name the column of the prompts, or make prompts from columns with `prompt_template`."
        raise ValueError(f"`{argument}` must name one of {columns}, got {name!r}.{hint}")


def place_of(number: int) -> str:
    """Returns how messages name a row: `row 3 (the first is 0)`."""
    return f"row {number} (the first is 0)"


def make_prompt(prompt: Any, number: int, chat: bool, system_prompt: str | None) -> Prompt:
    """
    Returns a cell, or a filled-in template, as a prompt: a text, or messages if `chat` or `system_prompt` is set or
    the cell has messages, which are checked. Errors name the row by `number`; options are as for [`load_prompts`].

    Raises:
        ValueError: If the prompt is empty, is neither a text nor a chat, or would have two system messages.
    """
    prompt = joined(prompt)
    system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    if isinstance(prompt, list) and prompt:
        _check_chat(prompt, number)
        if system and any(message["role"] == "system" for message in prompt):
            raise ValueError(
                f"`system_prompt` must not be set for a chat that has a system message, got {system_prompt!r} for "
                f"{place_of(number)}. Remove one of them."
            )
        return [*system, *prompt]
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(
            f"A prompt must be text or chat messages, and not empty, got {shorten(prompt)} in {place_of(number)}. "
            "Fill it in, or drop the row."
        )
    return [*system, {"role": "user", "content": prompt}] if chat or system else prompt


def make_references(value: Any, number: int, column: str) -> list[str]:
    """
    Returns the references in a cell as a list of at least one text. Errors name the row, by `number`, and the column.

    Raises:
        ValueError: If the cell is not text or a list of texts, or is empty, or one of its texts is.
    """
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(
            f"References must be text or a list of texts, none of them empty, got {shorten(value)} in column "
            f"{column!r}, {place_of(number)}. Fill it in, drop the row, or rename a column of something else."
        )
    return texts


def make_completion(prompt: Prompt, text: str, prefix: str) -> Prompt:
    """
    Returns a text as the completion of a prompt. For a chat it is a message of the assistant; for a text prompt the
    prefix comes before it, unless the prompt ends in white space.
    """
    if not isinstance(prompt, str):
        return [{"role": "assistant", "content": text}]
    return text if prompt[-1:].isspace() else prefix + text


def _check_chat(messages: list[Any], number: int) -> None:
    """Raises an error for a chat with a message that has no role or no content."""
    for message in messages:
        if not isinstance(message, dict) or not message.get("role") or not message.get("content"):
            raise ValueError(
                'Each message of a chat must be {"role": ..., "content": ...}, got '
                f"{shorten(message)} in {place_of(number)}. Fill it in, or drop the row."
            )
