"""The JSON Lines of a run: its log, and its rollouts, a file of bounded size that a resumed run continues."""

import json
import math
from collections.abc import Container, Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from lmrl.utils import shorten

LOG_NAME = "log.jsonl"
ROLLOUTS_NAME = "rollouts.jsonl"
MAX_BYTES = 8 << 20  # a report that shows all of it still opens quickly


class RolloutFile:
    """
    Writer of `rollouts.jsonl`: a line for each completion, the completions of a prompt one after the other.

    Of every `logging_steps` steps one rollout is saved, beginning with the first. Once the file is larger than
    `max_bytes`, every second rollout in it is dropped, and from then on they are saved half as often: the file covers
    all of the training, and not its end alone. It is never smaller than one rollout.

    Args:
        folder (`str` or `Path`):
            Folder of the run.
        completions (`int`):
            How many completions of a rollout are saved, its first ones. 0 writes nothing.
        max_bytes (`int`, *optional*, defaults to 8 MiB):
            Size of the file.
    """

    def __init__(self, folder: str | Path, completions: int, max_bytes: int = MAX_BYTES) -> None:
        self.path = Path(folder) / ROLLOUTS_NAME
        self.completions = completions
        self.max_bytes = max_bytes
        self._steps: list[int] | None = None  # of the rollouts in the file, once it has been read
        self._interval = 1

    def add(self, step: int, logging_steps: int, columns: Mapping[str, Any]) -> None:
        """
        Saves a rollout if it is time for one.

        Args:
            step (`int`):
                First optimizer step that is made with it, from 1.
            logging_steps (`int`):
                Steps from one saved rollout to the next, at least.
            columns (`dict`):
                `prompt` and `completion`, texts or messages; numbers by name; `rewards` and `extra`: columns by name.
        """
        if not self.completions:
            return
        if self._steps is None:
            self._steps = sorted({row["step"] for row in read_rollouts(self.path.parent) if "step" in row})
            self._interval = max(logging_steps, min((b - a for a, b in pairwise(self._steps)), default=1))
        if self._steps and step < self._steps[-1] + self._interval:
            return
        with self.path.open("ab") as stream:
            stream.write(as_lines(_rows(step, columns)[: self.completions]))
        self._steps.append(step)
        while self.path.stat().st_size > self.max_bytes and len(self._steps) > 1:
            self._steps = self._steps[::2]
            self._interval *= 2
            _keep(self.path, set(self._steps))


def drop_after(folder: str | Path, step: int) -> None:
    """Removes the rollouts of later steps: a run that goes on from a checkpoint makes these anew."""
    path = Path(folder) / ROLLOUTS_NAME
    if path.is_file():
        _keep(path, range(step + 1))


def read_rollouts(folder: str | Path) -> list[dict[str, Any]]:
    """Returns the lines of a run's `rollouts.jsonl`, as [`read_lines`] does; none if it has no such file."""
    path = Path(folder) / ROLLOUTS_NAME
    return read_lines(path) if path.is_file() else []


def read_log(folder: str | Path) -> list[dict[str, Any]]:
    """
    Returns the log history of a run: from the `log.jsonl` of its output folder, which is there while it trains, or
    from the `trainer_state.json` of the folder or of its newest `checkpoint-<step>`; empty if the folder has none, or
    does not exist (an id of the Hub).

    Raises:
        `ValueError`: if the file is not the state of a trainer.
    """
    folder = Path(folder)
    if (folder / LOG_NAME).is_file():
        return read_lines(folder / LOG_NAME)
    steps = [part for part in folder.glob("checkpoint-*") if part.name.removeprefix("checkpoint-").isdecimal()]
    newest = sorted(steps, key=lambda part: int(part.name.removeprefix("checkpoint-")), reverse=True)
    for place in (folder, *newest):
        path = place / "trainer_state.json"
        if path.is_file():
            content = path.read_bytes()
            try:
                return list(json.loads(content)["log_history"])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"`{path}` must be a trainer state with a `log_history`, got "
                    f"{shorten(content.decode(errors='replace'))}. Remove the file, or save it again."
                ) from error
    return []


def read_lines(path: Path) -> list[dict[str, Any]]:
    """
    Returns the lines of a run's file. A last line that is cut short, as a killed run leaves it, is left out.

    Raises:
        ValueError: If another line is not a JSON object.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")  # splitlines() would split in texts, too
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(dict(json.loads(line)))
        except (ValueError, TypeError) as error:
            if any(lines[number:]):
                raise ValueError(
                    f"Line {number} of `{path}` must be a JSON object, got {line[:60]!r}. "
                    "Remove the line, or the file."
                ) from error
    return rows


def _rows(step: int, columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns columns as rows; a column without a value for every completion is left out."""
    rows: list[dict[str, Any]] = [{"step": step} for _ in columns["prompt"]]
    for name in dict.fromkeys(["prompt", "completion", *columns]):  # texts first, for whoever reads the file
        values = columns[name]
        if isinstance(values, Mapping):
            known = {part: column for part, column in values.items() if len(column) == len(rows)}
            cells = [dict(zip(known, row, strict=True)) for row in zip(*known.values(), strict=True)]
        else:
            cells = list(values)
        if len(cells) == len(rows):
            for row, cell in zip(rows, cells, strict=True):
                row[name] = cell
    return rows


def as_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Returns rows as JSON Lines. NaN and infinities, which JSON does not have, become `null`."""
    text = "".join(json.dumps(finite(row), ensure_ascii=False, default=str) + "\n" for row in rows)
    return text.encode("utf-8", errors="backslashreplace")  # a lone surrogate becomes JSON's escape of it


def finite(value: Any) -> Any:
    """Returns a value for JSON, which has no NaN or infinities: these become `None`, also in mappings and lists."""
    if isinstance(value, Mapping):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _keep(path: Path, steps: Container[int]) -> None:
    """Rewrites a file with the rows of these steps, atomically; without any it is removed."""
    kept = [row for row in read_lines(path) if row.get("step") in steps]
    if not kept:
        path.unlink()
        return
    replace_file(path, as_lines(kept))


def replace_file(path: Path, content: bytes) -> None:
    """Writes a file that a reader never finds incomplete."""
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content)
    part.replace(path)
