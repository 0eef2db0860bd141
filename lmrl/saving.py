"""Writing of files: its errors, such as a full disk, checksums, and flushing to the disk."""

import json
import os
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

MANIFEST = "lmrl_files.json"


class SaveError(OSError):
    """A model or a checkpoint could not be written."""


@contextmanager
def save_errors(folder: str | Path) -> Iterator[None]:
    """Context manager that turns any failure to write to a folder into a [`SaveError`] with the reason."""
    try:
        yield
    except SaveError:
        raise
    except (OSError, RuntimeError, SafetensorError) as error:  # torch raises a RuntimeError when the disk is full
        raise SaveError(f"{folder} could not be written: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f" ({error.filename})" if error.filename else "")
    reason = str(error).rstrip(".")
    if "unexpected pos" in reason:  # torch's message of a write cut short names positions in a file, and no cause
        reason += " (the disk is full, or a limit is reached)"
    return reason


def check_writable(output_dir: str | Path) -> None:
    """Makes the folder of a run; raises a `ValueError` if no file can be written there."""
    try:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir):
            pass
    except OSError as error:
        raise ValueError(
            f"`output_dir` must be a folder that this user may write to, got {str(output_dir)!r} "
            f"({error.strerror}). Checkpoints and results go there: name another one."
        ) from error


def write_manifest(folder: Path) -> None:
    """Writes the list of all files of a folder, as the last file, once the others are on the disk."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    folders = [path for path in folder.rglob("*") if path.is_dir()]
    listed = {path.relative_to(folder).as_posix(): [path.stat().st_size, crc32(path)] for path in files}
    for path in [*files, *folders]:
        flush_to_disk(path)
    temporary = folder / f"{MANIFEST}.tmp"
    temporary.write_text(json.dumps({"saved_at": time.time(), "files": listed}, indent=2), encoding="utf-8")
    flush_to_disk(temporary)
    temporary.replace(folder / MANIFEST)
    flush_to_disk(folder)


def find_damage(folder: Path) -> str | None:
    """Returns how a folder differs from its manifest, to be read after its name; None if equal, or without one."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        listed = {name: (int(size), int(crc)) for name, (size, crc) in files.items()}
    except FileNotFoundError:
        return None
    except (AttributeError, KeyError, OSError, TypeError, ValueError):
        return f"is damaged: {MANIFEST} cannot be read"
    for name, (size, crc) in listed.items():
        path = folder / name
        if not path.is_file():
            return f"is damaged: {name} is missing"
        if (found := path.stat().st_size) != size:
            return f"is damaged: {name} has {found} bytes of {size}"
        if crc32(path) != crc:
            return f"is damaged: {name} is not what was saved (its CRC-32 differs)"
    return None


def crc32(path: Path) -> int:
    """Returns the CRC-32 of a file."""
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
