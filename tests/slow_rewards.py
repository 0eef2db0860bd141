"""Rewards that misbehave, in a module that worker processes can import."""

import asyncio
import os
import subprocess
import time
from pathlib import Path
from typing import Any

from lmrl.rewards import Reward


def length(completions: list[str], **_: Any) -> list[float]:
    """Returns the characters of each completion."""
    return [float(len(text)) for text in completions]


def process_id(completions: list[str], **_: Any) -> list[float]:
    """Returns the process that scores."""
    time.sleep(0.05)  # so that one worker does not take all chunks
    return [float(os.getpid()) for _ in completions]


def obedient(completions: list[str], **_: Any) -> list[float | None]:
    """Follows the completions: sleep, raise, die; scores others by their length."""
    for text in completions:
        if text == "sleep":
            time.sleep(60)
        if text == "raise":
            raise KeyError("no such thing")
        if text == "die":
            os._exit(7)
    return [None if text == "none" else float(len(text)) for text in completions]


def fails_twice(completions: list[str], folder: list[str], **_: Any) -> list[float]:
    """Raises on the first two calls, over all processes; returns the number of calls."""
    calls = Path(folder[0]) / "calls"
    with calls.open("a") as file:
        file.write("x")
    if (count := calls.stat().st_size) < 3:
        raise ConnectionError("try again")
    return [float(count) for _ in completions]


def starts_a_program(completions: list[str], folder: list[str], **_: Any) -> list[float]:
    """Waits for a program of its own, whose process it writes down."""
    with subprocess.Popen(["sleep", "60"]) as program:
        Path(folder[0], "program").write_text(str(program.pid))
    return [0.0 for _ in completions]


async def asynchronous(completions: list[str], **_: Any) -> list[float | None]:
    """Returns the length of each completion, `None` for an empty one, after a wait."""
    await asyncio.sleep(0.001)
    return [float(len(text)) or None for text in completions]


class LoadsNowhere(Reward):
    """A reward that can be pickled and not unpickled."""

    def __init__(self) -> None:
        super().__init__("loads_nowhere")

    @property
    def signature(self) -> str:
        """Its name."""
        return "loads_nowhere"

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise OSError("no weights here")
