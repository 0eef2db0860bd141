"""The study of a sweep: Optuna's loop over trials, in a folder from which it continues after a kill."""

import json
import math
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from threading import Event, Lock
from typing import Any

import numpy
from filelock import FileLock

from lmrl.cli.process import failure_reason, looks, outcome_line, read_rows, running
from lmrl.evaluation.metrics import higher_is_better
from lmrl.libraries import optuna
from lmrl.outputs import SCORES_OF_TRAINED, clear_study_folder, matching
from lmrl.settings import without_secrets

from .arguments import SweepArguments
from .space import as_argv

OVER_MAX_KL = "over max_kl"
_INTERRUPTED = "interrupted"
_SAMPLING = Lock()  # a study has one sampler: only one trial at a time may draw from it


class TrialFailed(Exception):
    """A trial without a score; the message is the reason."""


@dataclass(frozen=True)
class Sweep:
    """
    A search over the arguments of a recipe, whose complete state is in a folder.

    Trials run in processes of their own, and several processes may run the same sweep at once.

    Args:
        args ([`SweepArguments`]), command (list of `str`), space (`dict`):
            Arguments of the sweep; the recipe's file and its own arguments; the result of [`read_space`].
        reward_weights (list of `float`, *optional*):
            Weights of the rewards, which are the first scores whose names begin with `reward/`. If given, the
            objective `reward` is the weighted sum of the rewards, and any other must be a score that lmrl measures.
    """

    args: SweepArguments
    command: Sequence[str]
    space: Mapping[str, Any]
    reward_weights: Sequence[float] | None = None

    @cached_property
    def study(self) -> Any:
        """The study (`optuna.Study`) in the sweep's folder, which is created if it does not exist."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        journal = self.folder_of("study.journal")
        journal.parent.mkdir(parents=True, exist_ok=True)
        lock: Any = FileLock(f"{journal}.lock")  # Optuna's own lock outlives a killed process
        with lock:
            # A crash of the machine can leave an incomplete last line, to which the next would be appended.
            if journal.exists() and not (content := journal.read_bytes()).endswith(b"\n"):
                os.truncate(journal, content.rfind(b"\n") + 1)
        return optuna.create_study(
            study_name="sweep",
            storage=optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal), lock)),
            direction=self.direction,
            load_if_exists=True,
        )

    @cached_property
    def direction(self) -> Any:
        """`"maximize"` or `"minimize"`: the direction that is set, which must fit the score's, or else the score's."""
        try:
            better = higher_is_better(self.args.objective, "objective")
        except ValueError:
            if self.reward_weights is not None:
                raise
            return self.args.direction or "maximize"  # an unknown score of a user's script
        direction = self.args.direction or {True: "maximize", False: "minimize", None: ""}[better]
        self._check_direction(better, direction)
        return direction

    def _check_direction(self, better: bool | None, direction: str) -> None:
        """Raises an error if a direction contradicts the score's: `better` is whether higher is, or `None`."""
        allowed = {True: "maximize", False: "minimize", None: "maximize or minimize"}[better]
        if not direction or direction not in allowed:
            raise ValueError(f"`direction` must be {allowed} for {self.args.objective!r}, got {direction!r}.")

    def run(self) -> None:
        """
        Runs trials until the study has as many as wanted, not counting interrupted ones. Raises a `ValueError` if the
        folder has another study, the objective is unknown, or all trials failed.
        """
        clear_study_folder(self.args.output_dir, self.args.overwrite)
        self._check_settings()
        missing = max(self.args.trials - len(self.finished()), 0)
        stop = Event()
        errors: list[Exception] = []
        # Optuna's loop runs in a thread of its own; Ctrl-C is raised in the main thread, which then stops the trials.
        with ThreadPoolExecutor(1) as pool:
            loop = pool.submit(
                self.study.optimize,
                partial(self._objective, stop=stop, errors=errors),
                n_trials=missing,
                n_jobs=max(min(self.args.workers, missing), 1),
                catch=TrialFailed,
                callbacks=[self._after_trial],
            )
            try:
                loop.result()
            finally:
                stop.set()
        if errors:  # Optuna loses them if another trial was stopped meanwhile
            raise errors[0]
        if {trial.state.name for trial in self.finished()} == {"FAIL"}:
            last = self.finished()[-1]
            raise ValueError(f"All trials failed. Trial {last.number}: {last.user_attrs['reason']}")

    def finished(self) -> list[Any]:
        """Returns the trials that are complete, pruned or failed, but not those that were interrupted."""
        trials = [trial for trial in self.study.trials if trial.state.is_finished()]
        return [trial for trial in trials if trial.user_attrs.get("reason") not in (None, _INTERRUPTED)]

    def best(self) -> Any:
        """Returns the best trial within the bound on the KL, or `None`."""
        try:
            return self.study.best_trial
        except ValueError:  # no trial is complete, or none is within the bound
            return None

    def command_of(self, trial: Any) -> list[str]:
        """Returns the command that a trial runs."""
        searched = [word for name, value in trial.params.items() for word in as_argv(name, value)]
        return [*self.command, *searched, "--output_dir", str(self.folder_of(trial.number))]

    def folder_of(self, name: int | str) -> Path:
        """Returns the folder of a trial by its number, or a file of the sweep by its name."""
        return Path(self.args.output_dir, f"trial-{name:04}" if isinstance(name, int) else name)

    def _objective(self, trial: Any, stop: Event, errors: list[Exception]) -> float:
        """Returns the objective of a trial, for Optuna's loop."""
        # 1. The seed depends on the trial's number: a continued sweep draws the same as an uninterrupted one.
        seed = int(numpy.random.SeedSequence([self.args.seed, trial.number]).generate_state(1)[0])
        with _SAMPLING:
            self.study.sampler = optuna.samplers.TPESampler(n_startup_trials=self.args.startup_trials, seed=seed)
            for name, distribution in self.space.items():
                kind = type(distribution).__name__.removesuffix("Distribution").lower()
                getattr(trial, f"suggest_{kind}")(name, **vars(distribution))
        # 2. The run.
        try:
            value, kl, reason = self._measure(trial, stop)
        except (TrialFailed, optuna.TrialPruned) as error:
            trial.set_user_attr("reason", str(error))
            raise
        except Exception as error:  # an error that concerns every trial
            errors.append(error)
            stop.set()
            raise
        # 3. The bound on the KL.
        if self.args.max_kl is not None:
            trial.set_constraint("kl", math.inf if math.isnan(kl) else kl - self.args.max_kl)
            reason = reason if kl <= self.args.max_kl else OVER_MAX_KL
        trial.set_user_attr("kl", kl)
        trial.set_user_attr("reason", reason)
        return value

    def _measure(self, trial: Any, stop: Event) -> tuple[float, float, str]:
        """Returns the objective and the KL of a trial, and a note if they are taken from an equal trial."""
        for other in self.finished():
            if other.state.name == "COMPLETE" and other.params == trial.params:  # it would train the same model
                return other.value, other.user_attrs["kl"], f"as trial {other.number}"
        folder = self.folder_of(trial.number)
        folder.mkdir()
        self._train(trial, folder, stop)
        written = matching(folder, SCORES_OF_TRAINED) or [folder / SCORES_OF_TRAINED[0]]
        content = json.loads(written[0].read_text(encoding="utf-8"))
        scores = _numbers({name: score["value"] for name, score in content["scores"].items()})
        if (value := self._score(scores)) is None:
            raise ValueError(f"`objective` must be one of {', '.join(scores)}, got {self.args.objective!r}.")
        self._check_direction(content["scores"].get(self.args.objective, {}).get("higher_is_better"), self.direction)
        if not math.isfinite(value):
            raise TrialFailed(f"{self.args.objective} is {value}")
        return value, scores.get("kl", math.nan), ""

    def _train(self, trial: Any, folder: Path, stop: Event) -> None:
        """Runs the recipe, and reports the objective at each evaluation during training to Optuna."""
        position = 0
        step = 0
        with running([sys.executable, *self.command_of(trial)], folder / "run.log") as process:
            for has_ended in looks(process, stop):
                rows, position = read_rows(folder / "log.jsonl", position)
                for row in rows:
                    value = self._score(_numbers(row), "eval_")
                    if value is not None and math.isfinite(value) and row["step"]:  # step 0 is before training
                        step = int(row["step"])
                        trial.report(value, step)
                if rows and not has_ended and self.args.prune and self._is_worse(trial):
                    raise optuna.TrialPruned(f"worse than others at step {step}")
        if stop.is_set():
            raise TrialFailed(_INTERRUPTED)
        if process.returncode:
            raise TrialFailed(failure_reason(folder / "run.log", process.returncode))

    def _is_worse(self, trial: Any) -> bool:
        """Returns whether a trial is worse than the median of the trials within the bound on the KL."""
        feasible = optuna.create_study(direction=self.direction)
        for other in self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,)):
            if all(value <= 0 for value in other.constraints.values()):
                feasible.add_trial(other)
        pruner = optuna.pruners.MedianPruner(self.args.startup_trials)
        return bool(pruner.prune(feasible, self.study.trials[trial.number]))

    def _score(self, scores: Mapping[str, float], prefix: str = "") -> float | None:
        """Returns the objective from scores whose names have a prefix, or `None` if it was not measured."""
        if self.args.objective != "reward" or self.reward_weights is None:
            return scores.get(prefix + self.args.objective)
        if len(self.reward_weights) > 1 and f"{prefix}reward" in scores:  # one that does not apply counts as 0
            return scores[f"{prefix}reward"]
        rewards = [value for name, value in scores.items() if name.startswith(f"{prefix}reward/")]
        if len(rewards) < len(self.reward_weights):
            return None
        return math.fsum(weight * value for weight, value in zip(self.reward_weights, rewards, strict=False))

    def _after_trial(self, study: Any, trial: Any) -> None:
        """Prints the values and the outcome of a trial, and ends Optuna's loop if no further trial should begin."""
        reason = trial.user_attrs["reason"]
        scores = {} if trial.value is None else {self.args.objective: trial.value}
        run = f"trial {trial.number} {trial.params}"
        print(outcome_line(run, trial.state.name.lower(), scores, reason), file=sys.stderr)
        if reason == _INTERRUPTED or len(self.finished()) >= self.args.trials:
            study.stop()

    def _check_settings(self) -> None:
        """Raises an error for an unknown objective, or if the folder's study has other settings than this sweep."""
        command = [Path(self.command[0]).name, *self.command[1:]]  # the same from any working directory
        space = {name: str(distribution) for name, distribution in self.space.items()}
        settings = f"{shlex.join(command)}, {space}, {self.direction} {self.args.objective}, {self.args.max_kl}"
        settings = without_secrets(settings)
        if (known := without_secrets(self.study.user_attrs.get("settings", settings))) != settings:
            remedy = "Use another folder, or --overwrite."
            raise ValueError(f"`output_dir` must have a study of ({settings}), got ({known}). {remedy}")
        self.study.set_user_attr("settings", settings)


def _numbers(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Returns scores that were read from JSON, with NaN where it has `null`."""
    return {name: math.nan if value is None else value for name, value in scores.items()}
