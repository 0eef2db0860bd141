"""The held-out rows: what they must have, and how they are told apart."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from datasets import Dataset

Row: TypeAlias = Mapping[str, Any]


def take_rows(rows: "Dataset | Sequence[Row]", max_rows: int | None = None) -> list[Row]:
    """
    Returns the first rows as a list, checked.

    Args:
        rows (`datasets.Dataset` or list of `dict`):
            Rows with `"prompt"` and, all or none of them, `"references"`.
        max_rows (`int`, *optional*):
            How many; all by default.

    Raises:
        `ValueError`: if there are none, or a row lacks what it must have.
    """
    if max_rows is not None and max_rows < 1:
        raise ValueError(f"max_rows is {max_rows}, but must be at least 1, or None for all rows.")
    taken: list[Row] = [rows[i] for i in range(len(rows) if max_rows is None else min(max_rows, len(rows)))]
    if not taken:
        raise ValueError("There are 0 rows to evaluate, but at least 1 is needed. Check the split and its filters.")
    for index, row in enumerate(taken):
        if "prompt" not in row:
            raise ValueError(f'Row {index} has the columns {sorted(row)}, but needs "prompt". Rename the column.')
        if (row.get("references") is None) != (taken[0].get("references") is None):
            raise ValueError(
                f'Rows 0 and {index} differ: one has "references", the other has none. Give them to all rows or none.'
            )
    return taken


def row_ids(rows: Sequence[Row]) -> list[str]:
    """
    Returns an id for each row, by which two evaluations of the same rows in another order find each other.

    It is a hash of prompt and references, with the count of the rows before that have the same.
    """
    seen: Counter[str] = Counter()
    ids = []
    for row in rows:
        content = json.dumps([row["prompt"], row.get("references")], sort_keys=True, ensure_ascii=False)
        name = hashlib.blake2b(content.encode(), digest_size=6).hexdigest()
        ids.append(f"{name}.{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return ids


def data_signature(ids: Sequence[str]) -> dict[str, Any]:
    """Returns how many rows there are, and 12 hexadecimal digits that stand for them, whatever their order."""
    digest = hashlib.blake2b(" ".join(sorted(ids)).encode(), digest_size=6).hexdigest()
    return {"rows": len(ids), "hash": digest} if ids else {}
