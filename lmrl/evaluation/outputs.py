"""Texts of another system, read from a file, so that they can be measured like a checkpoint's."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .generation import Completion
from .rows import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEXT_KEYS = ("completion", "output", "text", "prediction")


def read_outputs(
    path: str | os.PathLike[str], rows: Sequence[Row], tokenizer: "PreTrainedTokenizerBase | None" = None
) -> list[Completion]:
    """
    Returns the completions in a file, in the order of the rows.

    Args:
        path (`str` or `os.PathLike`):
            A text file with one completion per line, or a `.jsonl` file with one object per line: the text under
            `"completion"`, `"output"`, `"text"` or `"prediction"`, and an `"id"` if the order is not that of the rows.
        rows (list of `dict`):
            The rows that were completed; an `"id"` is that of their column `id`.
        tokenizer (`transformers.PreTrainedTokenizerBase`, *optional*):
            Counts the length of a text, with the token that ends it; by default its words are counted.

    Returns:
        list of [`Completion`], one per row; all count as finished, as a file does not say.

    Raises:
        `ValueError`: if the file has another number of texts than there are rows, a line is not such an object, or
            the ids are not those of the rows.
    """
    path = Path(path)
    try:
        whole = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}): save it as UTF-8.") from error
    lines = whole.removesuffix("\n").split("\n") if whole else []
    texts = _texts_by_row(path, lines, rows) if path.suffix == ".jsonl" else lines
    if len(texts) != len(rows):
        raise ValueError(f"{path} has {len(texts)} texts for {len(rows)} rows: it needs one line per row, in order.")
    return [Completion(row, 0, text, _length(text, tokenizer), True) for row, text in enumerate(texts)]


def _length(text: str, tokenizer: "PreTrainedTokenizerBase | None") -> int:
    if tokenizer is None:
        return len(text.split())
    return len(tokenizer(text, add_special_tokens=False)["input_ids"]) + 1  # the end, as of a generated text


def _texts_by_row(path: Path, lines: list[str], rows: Sequence[Row]) -> list[str]:
    pairs = [_id_and_text(path, number, line) for number, line in enumerate(lines, start=1)]
    if all(name is None for name, _ in pairs):
        return [text for _, text in pairs]
    found, wanted = dict(pairs), [row.get("id") for row in rows]
    _check_unique(f"lines of {path}", [name for name, _ in pairs])
    _check_unique("rows", wanted)
    if missing := [name for name in wanted if name not in found]:
        raise ValueError(
            f"{path} has no text of the id {missing[0]!r} ({len(missing)} of {len(wanted)} rows have none): write one "
            "line per row, with the id in its column `id`."
        )
    if len(found) > len(wanted):
        odd = next(name for name in found if name not in wanted)
        raise ValueError(f"{path} has a text of {odd!r}, which is the id of no row. Remove what is of other rows.")
    return [found[name] for name in wanted]


def _check_unique(what: str, names: list[Any]) -> None:
    name, count = Counter(names).most_common(1)[0]
    if None in names or count > 1:
        fault = f"{names.count(None)} have no id" if None in names else f"{count} have the id {name!r}"
        raise ValueError(f"Of the {what} {fault}: give each an id of its own, or no line any.")


def _id_and_text(path: Path, number: int, line: str) -> tuple[str | int | None, str]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise ValueError(f"Line {number} of {path} is not JSON ({error}): write one object per line.") from error
    text = next((value[key] for key in TEXT_KEYS if key in value), None) if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise ValueError(f"Line {number} of {path} has no text under any of {', '.join(TEXT_KEYS)}: {line[:80]}")
    name = value.get("id")
    if not isinstance(name, str | int | None):
        raise ValueError(f"Line {number} of {path} has the id {name!r}, but it must be a text or a whole number.")
    return name, text
