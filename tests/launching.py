"""Scripts run by several processes under a configuration of recipes/accelerate, for the tests of engines."""

import contextlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

TESTS = Path(__file__).parent
BENCHMARKS = TESTS.parent / "benchmarks"
RECIPES = TESTS.parent / "recipes"
CONFIGS = RECIPES / "accelerate"

ANY_PORT = ("--main_process_port", "0")


@dataclass
class Child:
    """A process, and the file that it prints to: a pipe that no one reads fills up."""

    process: subprocess.Popen[str]
    printed: IO[str]


def start(
    engine: str | None,
    script: str | Path,
    *argv: str,
    options: tuple[str, ...] = ANY_PORT,
    prefix: tuple[str, ...] = (),
    **env: str,
) -> Child:
    """Starts a script by one process, or by several under a configuration."""
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / f"{engine}.yaml"), *options]
    path = os.pathsep.join([str(TESTS), *sys.path])
    printed = tempfile.TemporaryFile("w+")  # noqa: SIM115
    process = subprocess.Popen(
        [*prefix, sys.executable, *(launcher if engine else []), str(script), *argv],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", **env},
        stdout=printed,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return Child(process, printed)


def finish(child: Child, timeout: int = 400) -> str:
    """Returns what a child printed; it must end by itself, and well. It is ended otherwise."""
    try:
        status = child.process.wait(timeout=timeout)
    finally:
        kill(child)
    child.printed.seek(0)
    out = child.printed.read()
    assert status == 0, out[-5000:]
    return out


def run_benchmark(name: str, *argv: str | Path, **env: str) -> str:
    """Returns the output of a benchmark, which must end well; its errors are the message where it does not."""
    done = subprocess.run(
        [sys.executable, BENCHMARKS / name, *argv],
        env={**os.environ, "PYTHONPATH": str(BENCHMARKS.parent), **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def kill(child: Child) -> None:
    """Ends a child that still runs. On SIGTERM a launcher ends its children, which lead sessions of their own."""
    for end in (child.process.terminate, child.process.kill):
        if child.process.poll() is None:
            end()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(timeout=40)
