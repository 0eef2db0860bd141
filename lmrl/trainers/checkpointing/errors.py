"""Errors of writing: a full disk, a folder that may not be written to."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


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
    """
    Makes the folder of a run.

    Raises:
        ValueError: If no file can be written there.
    """
    try:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir):
            pass
    except OSError as error:
        raise ValueError(
            f"`output_dir` must be a folder that this user may write to, got {str(output_dir)!r} "
            f"({error.strerror}). Checkpoints and results go there: name another one."
        ) from error
