"""Runs recipes in processes of their own, and reads what they write: arguments, log, the reason of a failure."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

# A shell reads from a pipe that closes when this program dies; it then kills the recipe's process group.
_GUARD = 'read line || kill -s KILL -- "-$1"'
_POLL_SECONDS = 0.2

# The flag that makes a recipe check its arguments, print them and exit.
PRINT_ARGUMENTS = "--print_arguments"


def recipe_arguments(command: Sequence[str]) -> dict[str, dict[str, Any]] | None:
    """
    Returns the arguments of a recipe, each with `type` and `value`; `None` if it does not use lmrl's parser. `command`
    is the recipe's file and its arguments, which the recipe checks.

    Raises:
        ValueError: If the recipe does not accept the arguments.
    """
    source = Path(command[0]).read_text(encoding="utf-8")
    if not re.search(r"from lmrl\.cli import (?:.*|\([^)]*)\bparse\b", source):  # in one line or in several
        return None
    run = subprocess.run([sys.executable, *command, PRINT_ARGUMENTS], capture_output=True, text=True, check=False)
    if run.returncode:
        lines = run.stderr.strip().splitlines() or [f"exit status {run.returncode}"]
        raise ValueError(lines[-1].removeprefix("error: "))
    return dict(json.loads(run.stdout.splitlines()[-1]))


@contextmanager
def running(command: Sequence[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Yields the process of a command, whose output goes to `log`; it ends with the block, or if this program dies."""
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


def looks(process: "subprocess.Popen[bytes]", stop: Event) -> Iterator[bool]:
    """Yields five times a second whether a process has ended, until it has, or until `stop` is set."""
    has_ended = False
    while not has_ended and not stop.is_set():
        has_ended = process.poll() is not None
        yield has_ended
        if not has_ended:
            stop.wait(_POLL_SECONDS)


def read_rows(path: Path, position: int) -> tuple[list[dict[str, Any]], int]:
    """Returns the complete rows of a JSON Lines file from a byte position on, and the position after them."""
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
    # A message may follow a progress bar, which ends in a bracket, on the same line.
    errors = [found[1] for line in lines if (found := re.search(r"(?:^|\])error: (.*)", line))]
    return errors[-1] if errors else ": ".join([f"exit status {status}", *lines[-1:]])


def outcome_line(run: str, outcome: str, scores: Mapping[str, float], reason: str = "") -> str:
    """Returns a line about a run that has ended, such as `trial 3: complete, bleu 82.1`."""
    parts = [outcome, *(f"{name} {value:.6g}" for name, value in scores.items()), reason]
    return f"{run}: {', '.join(filter(None, parts))}"
