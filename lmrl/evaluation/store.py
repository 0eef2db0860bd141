"""Completions written to disk as they come, so that a killed evaluation goes on where it was."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Lines = list[dict[str, Any]]


class CompletionStore:
    """
    The batches of completions that are done, one per line of `<folder>/<name>-<key>.<rank>.jsonl`.

    `key` stands for all that the texts depend on: the model's weights, the prompts and the decoding. Where one of them
    has changed, the batches of before are not found.

    Args:
        folder (`str` or `Path`):
            Folder of the files, which all processes see.
        name (`str`):
            What the files are called, the label of a checkpoint say.
    """

    def __init__(self, folder: str | Path, name: str):
        self.folder = Path(folder)
        self.name = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name)

    def _files(self, key: str) -> list[Path]:
        return sorted(self.folder.glob(f"{self.name}-{key}.*.jsonl"))

    def read(self, key: str) -> dict[int, Lines]:
        """Returns the completions of each batch that some process has written whole, by the start of the batch."""
        return {start: lines for file in self._files(key) for start, lines in _whole_lines(file)}

    def append(self, key: str, rank: int, start: int, completions: Lines) -> None:
        """Writes the completions of the batch that begins at `start`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"{self.name}-{key}.{rank}.jsonl"
        line = json.dumps([start, completions])
        with file.open("a", encoding="utf-8") as stream:
            # A line that a kill has cut short must not swallow this one.
            stream.write(f"\n{line}\n" if _is_cut_short(file) else f"{line}\n")

    def remove(self) -> None:
        """Deletes the files, of every key; the folder too if nothing else is in it."""
        for file in self.folder.glob(f"{self.name}-*.jsonl"):
            file.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def _is_cut_short(file: Path) -> bool:
    with file.open("rb") as stream:
        if stream.seek(0, 2) == 0:
            return False
        stream.seek(-1, 2)
        return stream.read(1) != b"\n"


def _whole_lines(file: Path) -> Iterator[tuple[int, Lines]]:
    for line in file.read_text(encoding="utf-8").split("\n"):
        try:
            start, completions = json.loads(line)
        except ValueError:  # cut short by a kill
            continue
        yield start, completions


def store_key(model: "PreTrainedModel", prompt_ids: list[list[int]], settings: Mapping[str, Any]) -> str:
    """Returns 12 hexadecimal digits that change with any weight of the model, any prompt and any setting."""
    digest = hashlib.blake2b(json.dumps([prompt_ids, dict(settings)], sort_keys=True).encode(), digest_size=6)
    for name, weights in model.state_dict().items():
        # Two sums stand for a tensor: cheap on any device, and no training step leaves both as they were.
        flat = weights.detach().float()
        sums = float(flat.sum()), float(flat.square().sum())
        digest.update(f"{name}{tuple(weights.shape)}{weights.dtype}{sums}".encode())
    return digest.hexdigest()
