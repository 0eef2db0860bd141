"""Runs of a recipe with several seeds, one after the other or side by side, each in a folder of its own."""

import json
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import Any

from lmrl.cli import recipe_arguments
from lmrl.cli.flags import FlagParser
from lmrl.cli.interruption import interruption_message
from lmrl.cli.process import failure_reason, looks, outcome_line, running
from lmrl.cli.report import read_object
from lmrl.outputs import CHECKPOINTS, RESULTS, SCORES, SEEDS, WEIGHTS, clear_run_folder, matching, refuse_results
from lmrl.rollouts import replace_file
from lmrl.settings import without_secrets
from lmrl.utils import aligned_lines, check_at_least

from .folders import SUMMARY_FILE, is_finished, read_seeds, run_folder
from .report import report_seeds, write_summary

# Arguments in which runs of one configuration may differ, as each run has its own.
_OWN = ("logging_dir", "output_dir", "overwrite", "resume_from_checkpoint", "run_name", "seed")
# Arguments that would make all runs write to the same place, and what to do instead.
_SHARED = {
    "eval_output_dir": "The scores of each seed stand in its own folder.",
    "push_to_hub": "All seeds would be uploaded: upload the one that you keep.",
    "resume_from_checkpoint": "A seed that was interrupted goes on from its own newest checkpoint.",
}
_LAUNCHER = (sys.executable, "-m", "lmrl", "run")
_SHOWN_LINES = 10
_MAX_SEED = 2**32 - 1


def split_flags(words: Sequence[str]) -> tuple[list[int], int, list[str]]:
    """
    Returns the seeds of `lmrl run --seeds`, the number that run at a time, and the recipe's words of the command.

    Raises:
        ValueError: If a value is not allowed, if `--seed` is given too, or if `--parallel` is given without `--seeds`.
    """
    parser = FlagParser()
    parser.add_argument("--seeds", type=int, nargs="+", action="append")
    parser.add_argument("--parallel", type=int, default=1)
    values, rest = parser.parse_known_args(list(words))
    if values.seeds is None:
        raise ValueError(f"`parallel` must be given with `seeds`, got {values.parallel} alone. Add --seeds 0 1 2.")
    seeds = [seed for part in values.seeds for seed in part]
    if len(values.seeds) > 1 or len(set(seeds)) < len(seeds):
        raise ValueError(f"`seeds` must be given once and differ, got {' '.join(map(str, seeds))}. Leave one out.")
    if any(word.partition("=")[0] == "--seed" for word in rest):
        raise ValueError("`seed` must be left out where `seeds` are given, got both. Add it to `seeds`.")
    check_at_least(0, seeds=min(seeds))
    check_at_least(1, parallel=values.parallel)
    if max(seeds) > _MAX_SEED:
        raise ValueError(f"`seeds` must be at most {_MAX_SEED}, got {max(seeds)}.")
    return seeds, values.parallel, rest


def run_seeds(
    flags: Sequence[str],
    command: Sequence[str],
    seeds: Sequence[int],
    parallel: int = 1,
    launcher: Sequence[str] = _LAUNCHER,
) -> int:
    """
    Runs a recipe once for each seed, each in the folder `seed-<seed>` inside its `output_dir`, and writes a summary.

    A seed that has scores is not run again; an interrupted one resumes from its newest checkpoint, or starts again if
    there is none. If one fails, the others still run. `command` is the recipe's file and its arguments, `flags` are
    those of `accelerate launch`, and `launcher` the words before all these; `parallel` seeds run at a time.

    Returns:
        `int`: exit status: 0; of the first seed that failed; or 130 after Ctrl-C.

    Raises:
        ValueError: If the recipe does not accept its arguments, or runs of several seeds cannot share one of them.
    """
    try:
        _check_streams(flags, seeds)
        runs = _prepared([*launcher, *flags], command, seeds)
        facts = {"recipe": Path(command[0]).stem, "seeds": f"{', '.join(map(str, seeds))}; {parallel} at a time"}
        facts["output"] = f"{runs.folder}; a seed that runs writes seed-*/run.log"
        print(aligned_lines(facts), file=sys.stderr)
        statuses = runs.run(parallel)
    except KeyboardInterrupt:
        print(interruption_message({"seeds": seeds}), file=sys.stderr)
        return 130
    failed = {seed: status for seed, status in statuses.items() if status}
    if len(failed) < len(statuses):
        summary = write_summary(read_seeds(runs.folder, seeds))
        page = report_seeds([runs.folder])
        print(f"Scores over seeds: {summary}\nReport: {page}")
    for seed, status in failed.items():
        log = run_folder(runs.folder, seed) / "run.log"
        lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
        print(f"Seed {seed} failed with exit status {status}. {log} ends:", file=sys.stderr)
        print("\n".join(f"  {line}" for line in lines[-_SHOWN_LINES:]), file=sys.stderr)
    return next((status if status > 0 else 1 for status in failed.values()), 0)


@dataclass(frozen=True)
class _Runs:
    """The runs of a recipe with several seeds."""

    launcher: Sequence[str]  # with its flags
    command: Sequence[str]
    seeds: Sequence[int]
    folder: Path  # contains those of the seeds
    can_resume: bool  # whether the recipe is one of lmrl's, which can resume from a checkpoint

    def run(self, parallel: int) -> dict[int, int]:
        """Runs the seeds that have no scores yet, and returns the exit status of each seed; Ctrl-C ends all."""
        stop = Event()
        # Each run is watched by a thread; Ctrl-C is raised in the main thread, which then stops the runs.
        with ThreadPoolExecutor(parallel) as pool:
            futures = {seed: pool.submit(self._run_seed, seed, parallel > 1, stop) for seed in self.seeds}
            try:
                return {seed: future.result() for seed, future in futures.items()}
            finally:
                stop.set()

    def _run_seed(self, seed: int, is_beside_others: bool, stop: Event) -> int:
        """Runs a seed unless it has scores already, prints the outcome, and returns the exit status."""
        folder = run_folder(self.folder, seed)
        if is_finished(folder):
            print(outcome_line(f"seed {seed}", "complete before", self._headline(seed)), file=sys.stderr)
            return 0
        if stop.is_set():
            return 1
        folder.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        # Distributed runs that start at the same time would otherwise take the same port.
        with socket.create_server(("", 0)) as free:
            port = ["--main_process_port", str(free.getsockname()[1])] if is_beside_others else []
        words = [*self.launcher, *port, *self.command, "--seed", str(seed)]
        words += ["--output_dir", str(folder), *(self._going_on(folder) if self.can_resume else [])]
        with running(words, folder / "run.log") as process:
            for _ in looks(process, stop):
                pass
        if stop.is_set():
            return 1
        status = process.returncode or (0 if is_finished(folder) else 1)
        scores = {} if status else self._headline(seed)
        reason = failure_reason(folder / "run.log", status) if status else f"{time.monotonic() - start:.0f} s"
        print(outcome_line(f"seed {seed}", "failed" if status else "complete", scores, reason), file=sys.stderr)
        return status

    def _going_on(self, folder: Path) -> list[str]:
        """Returns the arguments that make the recipe continue the unfinished run in a folder."""
        if matching(folder, (*WEIGHTS, *SCORES)) and not matching(folder, CHECKPOINTS):  # trained, but not evaluated
            return ["--resume_from_checkpoint", "false", "--overwrite"]
        return ["--resume_from_checkpoint", "latest"] if matching(folder, RESULTS) else []

    def _headline(self, seed: int) -> dict[str, float]:
        """Returns up to two scores of a run, primary ones first."""
        try:
            found = read_seeds(self.folder, [seed])
        except ValueError:  # a user's script may write other files, which must not end the other runs
            return {}
        return {name: found.values(name)["after"][0] for name in list(found.metrics)[:2]}


def _prepared(launcher: Sequence[str], command: Sequence[str], seeds: Sequence[int]) -> _Runs:
    """Checks the arguments and the folder of a recipe, writes the settings, and returns the runs."""
    arguments = recipe_arguments(command)
    if arguments is None:  # a script that does not parse its arguments with lmrl
        values: dict[str, Any] = {"output_dir": _value_of("--output_dir", command), "command": " ".join(command[1:])}
        if values["output_dir"] is None:
            raise ValueError("`output_dir` must be given on the command line of a script of yours, got none.")
    else:
        values = {name: argument["value"] for name, argument in arguments.items()}
        if "resume_from_checkpoint" not in values:
            raise ValueError(f"`seeds` must be given to a recipe that trains, got {Path(command[0]).stem}.")
    for name, remedy in _SHARED.items():
        if values.get(name) not in (None, False, "latest"):
            raise ValueError(f"`{name}` must be left out where `seeds` are given, got {values[name]!r}. {remedy}")
    folder = Path(values["output_dir"])
    of_one_run = [path for path in matching(folder, RESULTS) if path.name != SUMMARY_FILE]
    refuse_results("output_dir", folder, of_one_run, "They are those of a single run: remove them.")
    if values.get("overwrite"):
        reads = {name: value for name, value in values.items() if name not in _OWN}
        for seed in seeds:
            clear_run_folder(run_folder(folder, seed), True, values["resume_from_checkpoint"], reads)
    _write_settings(folder, Path(command[0]).stem, values, seeds)
    return _Runs(launcher, command, seeds, folder, arguments is not None)


def _write_settings(folder: Path, recipe: str, values: Mapping[str, Any], seeds: Sequence[int]) -> None:
    """Writes `seeds.json` with the settings; raises an error if seeds in the folder were run with different ones."""
    settings = without_secrets({name: value for name, value in values.items() if name not in _OWN})
    now = {"recipe": recipe, **settings}
    left = [path.name for path in matching(folder, SEEDS) if matching(path, RESULTS)]
    known = read_object(folder / SUMMARY_FILE) if left else {}
    can_overwrite = "overwrite" in values and {*left} <= {run_folder(folder, seed).name for seed in seeds}
    before = {"recipe": known.get("recipe"), **known.get("settings", {})}
    for name in now if known else ():
        if before.get(name) != now[name]:
            raise ValueError(
                f"`{name}` must be that of the seeds in {str(folder)!r}, {before.get(name)!r}, got {now[name]!r}. "
                f"Use another output_dir, or {'--overwrite' if can_overwrite else 'remove ' + ', '.join(left)}."
            )
    folder.mkdir(parents=True, exist_ok=True)
    content = {"recipe": recipe, "seeds": list(seeds), "settings": settings}
    replace_file(folder / SUMMARY_FILE, json.dumps(content, indent=1, ensure_ascii=False).encode())


def _check_streams(flags: Sequence[str], seeds: Sequence[int]) -> None:
    """Raises an error for seeds so close that processes of two runs would have the same random numbers."""
    count = _value_of("--num_processes", flags) or "1"
    processes = int(count) if count.isdigit() else 1
    for low, high in pairwise(sorted(seeds)):
        if high - low < processes:
            apart = " ".join(str(processes * place) for place in range(len(seeds)))
            raise ValueError(
                f"`seeds` must be at least {processes} apart with {processes} processes, got {low} and {high}: "
                f"process r draws with seed + r. Take {apart}."
            )


def _value_of(flag: str, words: Sequence[str]) -> str | None:
    """Returns the value of a flag in a command, `None` if it is not there."""
    parser = FlagParser()
    parser.add_argument(flag, dest="value")
    return parser.parse_known_args(list(words))[0].value
