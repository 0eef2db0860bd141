"""The message of an interrupted recipe: the steps that are lost, and the command that continues."""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmrl.outputs import CHECKPOINTS, WEIGHTS, matching
from lmrl.rollouts import LOG_NAME, read_lines
from lmrl.settings import without_secrets
from lmrl.utils import COMMAND_VARIABLE

# The arguments that were parsed last, by name, for the message of an interrupted recipe.
PARSED: dict[str, Any] = {}


def interruption_message(arguments: Mapping[str, Any]) -> str:
    """Returns the message: what is lost, and the command that continues. `arguments` is empty before parsing."""
    if not arguments:
        return "interrupted"
    if "resume_from_checkpoint" not in arguments:
        return f"interrupted. The same command goes on with what is not done yet:\n  {_command()}"
    folder = Path(arguments["output_dir"])
    log = folder / LOG_NAME
    weights = matching(folder, WEIGHTS)
    if weights and not (log.is_file() and log.stat().st_mtime_ns > weights[0].stat().st_mtime_ns):
        return f"interrupted after the training. The model is in {folder}, not evaluated: see recipes/evaluate_gen.py"
    steps = _logged_steps(log)
    checkpoint = _newest_checkpoint(folder)
    command = _command(_resuming(arguments, checkpoint))
    if checkpoint is not None:
        lost = max(steps - int(checkpoint.name.split("-")[1]), 0)
        return f"interrupted. {checkpoint} is kept{_lost(lost, ' after it')}. To go on from there:\n  {command}"
    often = max(min(10, steps // 2), 1)  # would have kept a checkpoint of these steps
    remedy = "" if not steps else f" (`--save_strategy steps --save_steps {often}` keeps checkpoints)"
    return f"interrupted. There is no checkpoint yet{_lost(steps)}{remedy}. To start again:\n  {command}"


def _lost(steps: int, after: str = "") -> str:
    return f", and the {steps} step{'s'[: steps > 1]}{after} {'are' if steps > 1 else 'is'} lost" if steps else ""


def _logged_steps(log: Path) -> int:
    """Returns the last step in the log of a run; 0 if there is no log, or if it is damaged."""
    try:
        rows = read_lines(log) if log.is_file() else []
    except ValueError:
        rows = []
    return max((int(row["step"]) for row in rows if "step" in row), default=0)


def _newest_checkpoint(folder: Path) -> Path | None:
    """Returns the checkpoint that was completed last; the trainer's state is the last file of a checkpoint."""
    found = [path for path in matching(folder, CHECKPOINTS) if (path / "trainer_state.json").is_file()]
    return max(found, key=lambda path: (path / "trainer_state.json").stat().st_mtime, default=None)


def _resuming(arguments: Mapping[str, Any], checkpoint: Path | None) -> list[str]:
    """Returns the arguments to add to the command so that it resumes."""
    given = arguments["resume_from_checkpoint"]
    if checkpoint is None and given and Path(str(given)).is_dir():  # another run's, from which this one started
        return ["--resume_from_checkpoint", str(given), "--overwrite"]
    added = ["--resume_from_checkpoint", "latest"]
    in_a_file = arguments.get("overwrite") and not any(word.startswith("--overwrite") for word in sys.argv)
    return [*added, "--overwrite", "false"] if in_a_file else added


def _command(added: Sequence[str] = ()) -> str:
    """Returns the command of this process as typed, without secrets; `added` replaces flags of the same names."""
    words = shlex.split(os.environ.get(COMMAND_VARIABLE, "")) or [*_launcher(), *sys.argv]
    kept = []
    replaced = {"--overwrite", *added}
    while words:
        word = words.pop(0)
        if word.split("=")[0] not in replaced or not word.startswith("--"):
            kept.append(word)
        elif "=" not in word and words and not words[0].startswith("-"):
            words.pop(0)  # its value
    return str(without_secrets(shlex.join([*kept, *added])))


def _launcher() -> list[str]:
    """Returns the words of the command before the recipe's: Python's, or those of the launcher of this process."""
    own = [word for word in sys.orig_argv[: -len(sys.argv)] if word != "-m"]  # for a module, argv has its file
    try:
        content = Path(f"/proc/{os.getppid()}/cmdline").read_bytes()
    except OSError:  # not on Linux
        return own
    words = [os.fsdecode(word) for word in content.split(b"\0")[:-1]]
    before, recipe = words[: -len(sys.argv)], words[-len(sys.argv) :]
    if recipe != sys.argv or not before or Path(before[-1]).name.startswith("python"):
        return own
    if Path(before[0]).name.startswith("python") and len(before) > 1 and not before[1].startswith("-"):
        before = before[1:]  # a script such as accelerate or torchrun
    return [Path(before[0]).name, *before[1:]]
