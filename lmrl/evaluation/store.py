"""Completions written to disk batch by batch, so that an interrupted evaluation can be continued."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lmrl.libraries import PreTrainedModel, torch

Lines = list[dict[str, Any]]

_DIGITS = 12  # length of a key


class CompletionStore:
    """
    Finished batches of completions, one per line of `<folder>/<name>-<key>.<rank>.jsonl`.

    `key` is a hash of all that the completions depend on ([`store_key`]): the model's weights, the prompts and the
    decoding. If one of them has changed, the earlier batches are not found. All processes share the folder; `name` is,
    for example, the label of a checkpoint.
    """

    def __init__(self, folder: str | Path, name: str):
        self.folder = Path(folder)
        self.name = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name)

    def _files(self, key: str) -> list[Path]:
        return sorted(self.folder.glob(f"{self.name}-{key}.*.jsonl"))

    def exists(self) -> bool:
        """Returns whether there are completions with any key."""
        return bool(self._files("[0-9a-f]" * _DIGITS))

    def read(self, key: str) -> dict[int, Lines]:
        """Returns the completions of all batches that any process has written in full, by the batch's start."""
        batches = {}
        for file in self._files(key):
            for line in file.read_bytes().split(b"\n"):
                with suppress(ValueError):  # the line is empty, damaged, or was cut short by a kill
                    start, completions = json.loads(line)
                    batches[start] = completions
        return batches

    def append(self, key: str, rank: int, start: int, completions: Lines) -> None:
        """Writes the completions of the batch that begins at `start`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{self.name}-{key}.{rank}.jsonl").open("a", encoding="utf-8") as stream:
            # The newline comes first, so that this line is not appended to one that a kill has cut short.
            stream.write("\n" + json.dumps([start, completions]))

    def remove(self) -> None:
        """Deletes the files of all keys, then the folder if it is empty."""
        for file in self._files("[0-9a-f]" * _DIGITS):  # not those of a longer name that begins with this one
            file.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def store_key(model: PreTrainedModel, prompt_ids: list[list[int]], settings: Mapping[str, Any]) -> str:
    """Returns 12 hexadecimal digits that change with the model's config, any weight, any prompt and any setting."""
    digest = hashlib.sha256(json.dumps([prompt_ids, dict(settings)], sort_keys=True).encode())
    # What is computed with the weights, too: an adapter's scale is none of them.
    scales = [getattr(module, "scaling", None) for module in model.modules()]
    digest.update(f"{model.config.to_json_string()}{scales}".encode())
    for name, weights in model.state_dict().items():
        digest.update(f"{name}{tuple(weights.shape)}{weights.dtype}".encode())
        digest.update(weights.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:_DIGITS]
