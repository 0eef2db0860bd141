"""The process of a trial and what it writes: its log and the reason of a failure."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# The shell reads a pipe that closes when the sweep dies, and then kills the process group of the trial.
_GUARD = 'read line || kill -s KILL -- "-$1"'


@contextmanager
def running(command: Sequence[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Yields the process of a command that writes into a file; it ends with the block, or when the sweep is killed."""
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
    guard = None
    if os.name == "posix":
        shell = ["/bin/sh", "-c", _GUARD, "guard", str(process.pid)]
        guard = subprocess.Popen(shell, stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill() if guard is None else os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if guard is not None:
            guard.communicate(b"done\n")


def read_rows(path: Path, position: int) -> tuple[list[dict[str, Any]], int]:
    """Returns the complete rows of a JSON Lines file after a position, and the position after them."""
    if not path.is_file():
        return [], position
    with path.open("rb") as stream:
        stream.seek(position)
        content = stream.read()
    end = content.rfind(b"\n") + 1
    return [json.loads(line) for line in content[:end].splitlines()], position + end


def failure_reason(log: Path, status: int) -> str:
    """Returns the last line of a process's output that begins with `error: `, or its exit status and last line."""
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    # A progress bar leaves the line open, and ends in a bracket.
    errors = [found[1] for line in lines if (found := re.search(r"(?:^|\])error: (.*)", line))]
    return errors[-1] if errors else ": ".join([f"exit status {status}", *lines[-1:]])
