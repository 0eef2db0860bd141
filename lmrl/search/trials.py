"""One trial: a run of the recipe, watched while it trains, measured when it is done."""

import json
import math
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import Any

from lmrl.evaluation import read_json

from .child import last_words, running
from .objective import Objective

_POLL = 0.2  # seconds


class TrialFailed(Exception):
    """A trial that has no score, and the sentence that says why."""


class TrialPruned(Exception):
    """A trial that was worse than others at the same step."""


class Interrupted(Exception):
    """The sweep is being stopped."""


def run_trial(trial: Any, command: Sequence[str], folder: Path, objective: Objective, stop: Event) -> dict[str, float]:
    """
    Returns the held-out scores of the model that a trial trains.

    Args:
        trial (`optuna.Trial`):
            It is told the objective at each evaluation during training, and asked whether to go on.
        command (list of `str`):
            The recipe with the trial's arguments.
        folder (`Path`):
            The recipe's output folder.
        objective ([`Objective`]):
            What is optimised.
        stop (`threading.Event`):
            Ends the run when it is set.

    Raises:
        TrialFailed: If the recipe fails.
        TrialPruned: If Optuna's pruner says so.
        Interrupted: If `stop` is set.
    """
    with running([sys.executable, *command], folder / "run.log") as process:
        log = LogReader(folder / "log.jsonl")
        done = False
        while not done:
            done = process.poll() is not None
            reported = [_report(trial, row, objective) for row in log.new_rows()]
            if any(reported) and not done and trial.should_prune():
                raise TrialPruned(f"worse than others at step {max(reported)}")
            if stop.is_set():
                raise Interrupted
            if not done:
                time.sleep(_POLL)
        status = process.returncode
    if status:
        raise TrialFailed(last_words(folder / "run.log", status))
    return read_json(folder / "after.json").values


def _report(trial: Any, row: Mapping[str, Any], objective: Objective) -> int:
    """Tells Optuna what was measured during training; returns at which step, 0 if there is nothing."""
    value = objective.value(row, prefix="eval_")
    if value is None or not math.isfinite(value):
        return 0
    trial.report(value, int(row["step"]))
    return int(row["step"])


class LogReader:
    """
    The rows of a JSON Lines file that is being written.

    Args:
        path (`Path`):
            The file, which need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0

    def new_rows(self) -> Iterator[dict[str, Any]]:
        """Yields the rows that were written since the last call, whole lines only."""
        if not self.path.is_file():
            return
        with self.path.open("rb") as stream:
            stream.seek(self._read)
            for line in stream:
                if not line.endswith(b"\n"):
                    return
                self._read += len(line)
                yield json.loads(line)


def as_command(command: Sequence[str]) -> str:
    """Returns a command as it is typed."""
    return shlex.join(["python", *command])
