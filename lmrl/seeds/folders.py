"""Reads a folder with the runs of several seeds, which `lmrl run --seeds` writes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lmrl.cli.report import RunFolder, read_object, read_run_folder
from lmrl.evaluation import Evaluation, Score
from lmrl.evaluation.roles import primary_metrics
from lmrl.outputs import SCORES_OF_TRAINED, SEEDS, matching
from lmrl.rollouts import LOG_NAME

SUMMARY_FILE = "seeds.json"
PAGE_FILE = "seeds.html"


@dataclass(frozen=True)
class SeedFolder:
    """The runs of one configuration with several seeds, all with the same metrics."""

    folder: Path  # contains the runs' folders
    runs: Mapping[int, RunFolder]  # the finished ones, by seed

    @property
    def last(self) -> dict[int, Evaluation]:
        """The evaluation of each trained model, by seed."""
        return {seed: next(reversed(run.evaluations.values())) for seed, run in self.runs.items()}

    @cached_property
    def primary(self) -> list[str]:
        """The metrics to test: those of the runs if all have the same, else those chosen for the first run."""
        wanted = [run.facts.get("primary") for run in self.runs.values()]
        if wanted[0] is not None and all(names == wanted[0] for names in wanted):
            return list(wanted[0])
        run = next(iter(self.runs.values()))
        return primary_metrics(run.evaluations, run.facts.get("rewarded") or [])

    @property
    def metrics(self) -> dict[str, Score]:
        """The first run's scores by name, the primary metrics first."""
        scores = next(iter(self.last.values())).scores
        return {name: scores[name] for name in dict.fromkeys([*self.primary, *scores]) if name in scores}

    @property
    def start(self) -> str:
        """The label of what trained models are compared with: `before`, or for classifiers that of a simple rule."""
        labels = list(next(iter(self.runs.values())).evaluations)
        return labels[0] if len(labels) > 1 else "before"

    def values(self, name: str) -> dict[str, list[float]]:
        """
        Returns a metric's values, one per seed, at `start`, `"after"` training, and their `"change"`; only `"after"`
        if a run has no evaluation of the start.
        """
        after = [evaluation.scores[name].value for evaluation in self.last.values()]
        first = [next(iter(run.evaluations.values())).scores.get(name) for run in self.runs.values()]
        before = [score.value for score in first if score is not None]
        if any(len(run.evaluations) < 2 for run in self.runs.values()) or len(before) < len(after):
            return {"after": after}
        change = [new - old for new, old in zip(after, before, strict=True)]
        return {self.start: before, "after": after, "change": change}

    @property
    def config(self) -> dict[str, Any]:
        """The settings of the runs, without the seed."""
        return {name: value for name, value in next(iter(self.runs.values())).config.items() if name != "seed"}

    def mean_log(self) -> list[dict[str, float]]:
        """Returns the mean of the runs' logs, for the steps and the numbers that all of them have."""
        by_step = [_numbers_by_step(run.log) for run in self.runs.values()]
        rows = []
        for step in by_step[0]:
            if all(step in log for log in by_step):
                logged = [log[step] for log in by_step]
                names = [name for name in logged[0] if all(name in numbers for numbers in logged)]
                means = {name: sum(numbers[name] for numbers in logged) / len(logged) for name in names}
                rows.append({**means, "step": step})
        return rows


def is_seed_folder(folder: str | Path) -> bool:
    """Returns whether a folder contains runs of several seeds and is not a run's own folder."""
    folder = Path(folder)
    return not (folder / LOG_NAME).is_file() and bool(matching(folder, (SUMMARY_FILE, *SEEDS)))


def run_folder(folder: Path, seed: int) -> Path:
    """Returns the folder of the run with a seed."""
    return folder / f"seed-{seed}"


def is_finished(folder: Path) -> bool:
    """Returns whether a run has scores of its trained model."""
    return bool(matching(folder, SCORES_OF_TRAINED))


def read_seeds(folder: str | Path, seeds: Sequence[int] | None = None) -> SeedFolder:
    """
    Returns the finished runs in a folder. `seeds` defaults to those of the last `lmrl run --seeds`, or else to every
    `seed-<n>` in it.

    Raises:
        ValueError: If no run is finished, or two have different metrics.
    """
    folder = Path(folder)
    if seeds is None:
        there = [int(path.name.partition("-")[2]) for path in matching(folder, SEEDS)]
        seeds = read_object(folder / SUMMARY_FILE).get("seeds") or sorted(there)
    runs = {seed: read_run_folder(run_folder(folder, seed)) for seed in seeds if is_finished(run_folder(folder, seed))}
    if not runs:
        raise ValueError(f"`seeds` must have a run that has ended, got none in {str(folder)!r}. See seed-*/run.log.")
    found = SeedFolder(folder, runs)
    names = {seed: sorted(evaluation.scores) for seed, evaluation in found.last.items()}
    first = next(iter(names))
    for seed, metrics in names.items():
        if metrics != names[first]:
            other = sorted({*metrics} ^ {*names[first]})
            raise ValueError(
                f"The seeds in {str(folder)!r} must have the same metrics, got {', '.join(other)} of only one of seed "
                f"{first} and seed {seed}. Run both with the same settings."
            )
    return found


def _numbers_by_step(log: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, float]]:
    """Returns the numbers in a log by step, merging the rows of training and of evaluation."""
    found: dict[int, dict[str, float]] = {}
    for row in log:
        numbers = {name: value for name, value in row.items() if isinstance(value, int | float)}
        if "step" in numbers:
            found.setdefault(int(numbers.pop("step")), {}).update(numbers)
    return found
