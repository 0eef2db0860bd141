"""Held-out rows: checks, and ids by which evaluations of the same rows are matched."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from lmrl.libraries import Dataset

from .scores import check_references

Row: TypeAlias = Mapping[str, Any]
Rows: TypeAlias = "Dataset | Sequence[Row]"


def checked_rows(rows: Rows) -> list[Row]:
    """
    Returns rows as a list, after checking that all have `"prompt"`, and that all or none have `"references"`.

    Raises:
        `ValueError`: if there are no rows, or a row lacks a column or has no reference in it.
    """
    taken: list[Row] = [rows[i] for i in range(len(rows))]
    if not taken:
        raise ValueError("`rows` must have at least 1 row, got 0. Check the split and its filters.")
    for index, row in enumerate(taken):
        if "prompt" not in row:
            raise ValueError(f"Row {index} must have a column `prompt`, got {sorted(row)}. Rename the column.")
        if (row.get("references") is None) != (taken[0].get("references") is None):
            raise ValueError(
                f"`references` must be given for all rows or for none, got them for one of the rows 0 and {index}. "
                "Add the missing ones, or remove the column."
            )
    if taken[0].get("references") is not None:
        check_references(row["references"] for row in taken)
    return taken


def row_ids(rows: Sequence[Row]) -> list[str]:
    """
    Returns an id for each row, by which evaluations of the same rows in another order are matched: a hash of prompt
    and references, followed, for a repeated row, by the number of equal rows before it.
    """
    seen: Counter[str] = Counter()
    ids = []
    for row in rows:
        content = json.dumps([row["prompt"], row.get("references")], sort_keys=True, ensure_ascii=False)
        name = hashlib.blake2b(content.encode(errors="backslashreplace"), digest_size=6).hexdigest()
        ids.append(f"{name}.{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return ids


def data_signature(ids: Sequence[str]) -> dict[str, Any]:
    """Returns the number of rows, and a hash of 12 hexadecimal digits that does not depend on their order."""
    digest = hashlib.blake2b(" ".join(sorted(ids)).encode(), digest_size=6).hexdigest()
    return {"rows": len(ids), "hash": digest} if ids else {}
