"""The list of a checkpoint's files with their sizes and checksums, which shows whether it is complete."""

import json
import os
import time
import zlib
from pathlib import Path

MANIFEST = "lmrl_files.json"


def write_manifest(checkpoint: Path) -> None:
    """Writes the list of all files of a checkpoint once they are on the disk: the last thing that it gets."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    folders = [path for path in checkpoint.rglob("*") if path.is_dir()]
    listed = {path.relative_to(checkpoint).as_posix(): [path.stat().st_size, _crc32(path)] for path in files}
    for path in [*files, *folders]:
        flush_to_disk(path)
    temporary = checkpoint / f"{MANIFEST}.tmp"
    temporary.write_text(json.dumps({"saved_at": time.time(), "files": listed}, indent=2), encoding="utf-8")
    flush_to_disk(temporary)
    temporary.replace(checkpoint / MANIFEST)
    flush_to_disk(checkpoint)


def find_corruption(checkpoint: str | Path) -> str | None:
    """
    Returns what is wrong with a checkpoint, to be read after its name, or None if it is complete.

    Every file is read and compared with the list. A checkpoint of another tool has no list: it must have weights, an
    optimizer and the state of the trainer, which is written last.
    """
    checkpoint = Path(checkpoint)
    if not checkpoint.is_dir():
        return "is not there"
    try:
        listed = _read_manifest(checkpoint)
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
    return _find_missing(checkpoint)


def _read_manifest(checkpoint: Path) -> dict[str, tuple[int, int]]:
    """Returns size and CRC-32 of the listed files by their names."""
    files = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["files"]
    return {name: (int(size), int(crc)) for name, (size, crc) in files.items()}


def _find_missing(checkpoint: Path) -> str | None:
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
        return "has no state of the optimizer, so training cannot go on from it (it can be given as a model)"
    return None


def _crc32(path: Path) -> int:
    value = 0
    with path.open("rb") as stream:
        while part := stream.read(1 << 20):
            value = zlib.crc32(part, value)
    return value


def flush_to_disk(path: Path) -> None:
    """Flushes a file or a folder, so that it survives a loss of power too."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
