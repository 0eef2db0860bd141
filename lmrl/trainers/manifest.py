"""Whether a checkpoint is whole: a list of its files, written last, that each of them is compared with."""

import json
import os
import time
import zlib
from pathlib import Path
from typing import Any

MANIFEST = "lmrl_files.json"


def write_manifest(checkpoint: Path) -> None:
    """Write down every file with its size and CRC-32 once it is on the disk: the last thing that a checkpoint gets."""
    paths = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    files = {path.relative_to(checkpoint).as_posix(): [path.stat().st_size, _crc32(path)] for path in paths}
    for path in [*paths, *(path for path in checkpoint.rglob("*") if path.is_dir())]:
        to_disk(path)
    unnamed = checkpoint / f"{MANIFEST}.tmp"
    unnamed.write_text(json.dumps({"saved_at": time.time(), "files": files}, indent=2), encoding="utf-8")
    to_disk(unnamed)
    unnamed.replace(checkpoint / MANIFEST)
    to_disk(checkpoint)


def what_is_wrong(checkpoint: str | Path) -> str | None:
    """
    Returns what keeps a run from going on from a checkpoint, to be read after its name, or None if it is whole.

    Every file is read and compared with what was written down. A checkpoint of another tool has no such list: it must
    have weights, an optimizer and the state of the trainer, which is written last, and no weights may be cut short.

    Args:
        checkpoint (`str` or `Path`):
            Folder.
    """
    checkpoint = Path(checkpoint)
    if not checkpoint.is_dir():
        return "is not there"
    try:
        written = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["files"]
        listed = {name: (int(size), int(crc)) for name, (size, crc) in written.items()}
    except FileNotFoundError:
        listed = {}
    except (AttributeError, KeyError, OSError, TypeError, ValueError):
        return f"is damaged: {MANIFEST} cannot be read"
    for name, (size, crc) in listed.items():
        path = checkpoint / name
        if not path.is_file():
            return f"is damaged: {name} is missing"
        if (found := path.stat().st_size) != size:
            return f"is damaged: {name} has {found} bytes of {size}"
        if _crc32(path) != crc:
            return f"is damaged: {name} is not what was saved (its CRC-32 differs)"
    return _what_is_missing(checkpoint)


def _what_is_missing(checkpoint: Path) -> str | None:
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "is unfinished: trainer_state.json is missing"
    except (OSError, ValueError):
        return "is damaged: trainer_state.json cannot be read"
    names = {path.name for path in checkpoint.iterdir()} | {path.name for path in checkpoint.glob("*/adapter_model*")}
    if not any(name.startswith(("model", "pytorch_model", "adapter_model", "global_step")) for name in names):
        return "has no weights"
    if not any(name.startswith(("optimizer", "global_step")) for name in names):
        return "has no state of the optimizer, so training cannot go on from it (as a model it can be given)"
    for path in checkpoint.glob("*.safetensors"):
        if (size := _stated_size(path)) != (found := path.stat().st_size):
            return f"is damaged: {path.name} has {found} bytes of {size}"
    return None


def _stated_size(path: Path) -> int | None:
    """The size of a safetensors file as its header has it."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        try:
            header: dict[str, Any] = json.loads(stream.read(length))
        except (ValueError, MemoryError, OverflowError):
            return None
    tensors = [entry for name, entry in header.items() if name != "__metadata__"]
    return 8 + length + max((tensor["data_offsets"][1] for tensor in tensors), default=0)


def _crc32(path: Path) -> int:
    value = 0
    with path.open("rb") as stream:
        while part := stream.read(1 << 20):
            value = zlib.crc32(part, value)
    return value


def to_disk(path: Path) -> None:
    """Ask that a file or a folder survives a loss of power too."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
