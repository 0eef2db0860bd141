"""Writing that fails with a sentence: a full disk, a folder that one may not write to."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


class SaveError(OSError):
    """A model or a checkpoint could not be written."""


@contextmanager
def told_of(folder: str | Path) -> Iterator[None]:
    """Runs what writes to a folder; whatever library fails at it, a [`SaveError`] says where and why in a sentence."""
    try:
        yield
    except SaveError:
        raise
    except (OSError, RuntimeError, SafetensorError) as error:  # torch's of a full disk is a RuntimeError
        raise SaveError(f"{folder} could not be written: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    """What torch says of a full disk is about positions in a file: ask the disk itself."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f" ({error.filename})" if error.filename else "")
    return str(error).rstrip(".") + (
        " (the disk is full, or a limit is reached)" if "unexpected pos" in str(error) else ""
    )


def check_writable(output_dir: str | Path) -> None:
    """
    Make the folder of a run.

    Raises:
        ValueError: If no file can be written there.
    """
    try:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir):
            pass
    except OSError as error:
        raise ValueError(
            f"output_dir={str(output_dir)!r} cannot be written to: {error.strerror}. Checkpoints and results go "
            "there: name a folder that this user may write to."
        ) from error
