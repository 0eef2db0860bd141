"""Scripts run by several processes under a configuration of recipes/accelerate, for the tests of engines."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent
RECIPES = TESTS.parent / "recipes"
CONFIGS = RECIPES / "accelerate"

ANY_PORT = ("--rdzv_backend", "c10d", "--main_process_port", "0")


def start(
    engine: str | None, script: str | Path, *argv: str, options: tuple[str, ...] = ANY_PORT, prefix=(), **env: str
):
    """Starts a script by one process, or under a configuration, and returns the child, which leads its own session."""
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / f"{engine}.yaml"), *options]
    path = os.pathsep.join([str(TESTS), *sys.path])
    return subprocess.Popen(
        [*prefix, sys.executable, *(launcher if engine else []), str(script), *argv],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(child: subprocess.Popen, timeout: int = 400) -> str:
    """Returns what a child printed; it must end by itself, and well. It is killed with all of its own otherwise."""
    try:
        out, _ = child.communicate(timeout=timeout)
    finally:
        kill(child)
    assert child.returncode == 0, out[-5000:]
    return out


def kill(child: subprocess.Popen) -> None:
    """Kills a child that still runs, and its children."""
    if child.poll() is None:
        os.killpg(child.pid, 9)
        child.wait()
