"""Reads the completions of another system from a file, to evaluate them like those of a checkpoint."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmrl.libraries import PreTrainedTokenizerBase
from lmrl.utils import parse_json, shorten

from .generation import Completion
from .rows import Row

TEXT_KEYS = ("completion", "output", "text", "prediction")


def read_outputs(
    path: str | os.PathLike[str], rows: Sequence[Row], tokenizer: "PreTrainedTokenizerBase | None" = None
) -> list[Completion]:
    """
    Returns the completions in a file, one per row, in the order of the rows, all as finished.

    Args:
        path (`str` or `os.PathLike`):
            A text file with one completion per line, or a `.jsonl` file with one object per line: the text under
            `"completion"`, `"output"`, `"text"` or `"prediction"`, and an `"id"` if the order is not that of the rows.
        rows (list of `dict`):
            The rows that were completed. An `"id"` in the file refers to their column `id`.
        tokenizer (`transformers.PreTrainedTokenizerBase`, *optional*):
            Counts the tokens of a text, plus one for the end-of-sequence token; by default words are counted.

    Raises:
        `ValueError`: if the file has another number of texts than there are rows, a line is not such an object, or
            the ids are not those of the rows.
    """
    path = Path(path)
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} must be UTF-8 text, got {error}. Save it again as UTF-8.") from error
    texts = content.removesuffix("\n").split("\n") if content else []
    if path.suffix == ".jsonl":
        texts = _texts_by_row(path, texts, rows)
    if len(texts) != len(rows):
        raise ValueError(
            f"{str(path)!r} must have one line for each of {len(rows)} rows, got {len(texts)}. Write them in order."
        )
    if tokenizer is None:
        lengths = [len(text.split()) for text in texts]
    else:  # plus the end-of-sequence token, as for a generated text
        lengths = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) + 1 for text in texts]
    return [Completion(row, 0, text, lengths[row], True) for row, text in enumerate(texts)]


def _texts_by_row(path: Path, lines: list[str], rows: Sequence[Row]) -> list[str]:
    pairs = [_id_and_text(f"{str(path)!r}, line {number}", line) for number, line in enumerate(lines, start=1)]
    ids = [name for name, _ in pairs]
    if not any(name is not None for name in ids):
        return [text for _, text in pairs]
    row_ids = [row.get("id") for row in rows]
    _check_unique(f"lines of {str(path)!r}", ids)
    _check_unique("rows", row_ids)
    texts = dict(pairs)
    if missing := [name for name in row_ids if name not in texts]:
        raise ValueError(
            f"{str(path)!r} must have one line per row, got none with the id {missing[0]!r} ({len(missing)} of "
            f"{len(rows)} rows have none). Write each with the id in its row's column `id`."
        )
    if unknown := list(texts.keys() - set(row_ids)):
        raise ValueError(f"{str(path)!r} must have lines of these rows only, got the id {unknown[0]!r}. Remove it.")
    return [texts[name] for name in row_ids]


def _check_unique(of: str, ids: list[Any]) -> None:
    name, count = Counter(ids).most_common(1)[0]
    if None in ids:
        raise ValueError(f"`id` must be given for all {of} or for none, got {ids.count(None)} without. Add them.")
    if count > 1:
        raise ValueError(f"`id` must be different for all {of}, got {name!r} {count} times. Number the rows.")


def _id_and_text(place: str, line: str) -> tuple[str | int | None, str]:
    try:
        value = parse_json(line)
    except ValueError as error:
        raise ValueError(f"{place}: every line must be a JSON object, got {shorten(line)} ({error}).") from error
    texts = [value[key] for key in TEXT_KEYS if key in value] if isinstance(value, dict) else []
    if not texts or not isinstance(texts[0], str):
        raise ValueError(f"{place}: a text must be given as one of {', '.join(TEXT_KEYS)}, got {shorten(line)}.")
    name = value.get("id")
    if not isinstance(name, str | int | None):
        raise ValueError(f"{place}: `id` must be a text or a whole number, got {name!r}.")
    return name, texts[0]
