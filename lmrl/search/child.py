"""A trial's process: started, killed with all that it started, and killed too when the sweep itself is."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_GRACE = 5.0  # seconds between being asked to stop and being killed
# The pipe closes when the sweep dies, however it dies.
_GUARD = 'read word || kill -s KILL -- "-$1"'


@contextmanager
def running(command: Sequence[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """
    Yields the process of a command, whose words go into a file; afterwards it has ended.

    Args:
        command (list of `str`):
            The command.
        log (`Path`):
            The file.
    """
    with log.open("wb") as words:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=words, stderr=subprocess.STDOUT, start_new_session=True
        )
    shell = ["/bin/sh", "-c", _GUARD, "guard", str(process.pid)]
    guard = subprocess.Popen(shell, stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield process
    finally:
        _end(process)
        guard.communicate(b"done\n")


def _end(process: "subprocess.Popen[bytes]") -> None:
    for way in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, way)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)
    process.wait()


def last_words(log: Path, status: int) -> str:
    """
    Returns why a process failed: the last `error: ...` of its words, or the last line.

    Args:
        log (`Path`):
            The file with its words.
        status (`int`):
            Its exit status, negative for a signal.
    """
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    if errors:
        return errors[-1].removeprefix("error: ")
    how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
    return f"{how}: {lines[-1]}" if lines else how
