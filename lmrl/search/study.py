"""The study: which trials there are, who runs the next one, and what is left when a sweep is killed."""

import hashlib
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event
from typing import Any

from .feasible import AmongFeasible, is_feasible
from .library import optuna
from .locks import FileLock
from .objective import Objective
from .space import Dimension
from .trials import Interrupted, TrialFailed, TrialPruned, as_command, run_trial

JOURNAL = "study.journal"


@dataclass(frozen=True)
class Sweep:
    """
    A search over the arguments of a recipe, in a folder that holds all that is known of it.

    Trials run as processes of their own, `workers` at a time, and any number of processes may call [`run`] on the
    same folder at once. A trial whose sweep was killed is run again by the next one.

    Args:
        folder (`Path`):
            Folder of the study and of the trials.
        command (list of `str`):
            The recipe's file and its arguments, without those searched.
        space (`dict` of [`Dimension`]):
            What is searched.
        objective ([`Objective`]):
            What is optimised.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the search.
        startup_trials (`int`, *optional*, defaults to `5`):
            Trials drawn at random, and pruned by none.
        prune (`bool`, *optional*, defaults to `True`):
            Whether trials may be stopped before their end.
        pruner (`optuna.pruners.BasePruner`, *optional*):
            Which ones; by default those worse than the median at the same step.
    """

    folder: Path
    command: Sequence[str]
    space: Mapping[str, Dimension]
    objective: Objective
    seed: int = 0
    startup_trials: int = 5
    prune: bool = True
    pruner: Any = None

    def run(self, trials: int, workers: int = 1) -> None:
        """
        Runs trials until the study has so many.

        Args:
            trials (`int`):
                Trials of the study at the end, earlier ones included.
            workers (`int`, *optional*, defaults to `1`):
                Trials at a time.

        Raises:
            ValueError: If the folder holds another study, the objective is not measured, or all trials failed.
        """
        self.open()
        stop = Event()
        with ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(self._work, trials, stop) for _ in range(workers)]
            try:
                for future in futures:
                    future.result()
            finally:
                stop.set()
        failed = [trial for trial in self.trials() if trial.state.name == "FAIL"]
        if failed and len(failed) == len(self.trials()):
            reason = failed[-1].user_attrs["reason"]
            raise ValueError(f"all {len(failed)} trials failed, trial {failed[-1].number} with: {reason}")

    def open(self) -> None:
        """
        Makes the study or finds it, and has trials whose process was killed run again.

        Raises:
            ValueError: If the folder holds another study, or trials of none.
        """
        optuna()
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            if not (self.folder / JOURNAL).exists() and any(self.folder.glob("trial-*")):
                raise ValueError(f"{self.folder} has trials but no {JOURNAL}: name another output_dir, or empty it")
            self._mend()
            study = self._study()
            known, settings = study.user_attrs.get("settings"), self._settings()
            for name in settings if known else ():
                if known[name] != settings[name]:
                    raise ValueError(
                        f"{self.folder} holds a study with {name} {known[name]!r}, and not {settings[name]!r}: name "
                        "another output_dir"
                    )
            study.set_user_attr("settings", settings)
            for trial in study.trials:
                if trial.state.name == "RUNNING" and self._is_dead(trial.number):
                    self._run_again(study, trial)

    def trials(self) -> list[Any]:
        """Returns the trials of the study, but for those that were interrupted and have been drawn again."""
        found = self._study().trials
        again = {trial.user_attrs.get("again") for trial in found}
        return [trial for trial in found if trial.number not in again and trial.state.name != "WAITING"]

    def best(self) -> Any:
        """Returns the best trial that keeps the bound on the KL, or None."""
        kept = [trial for trial in self.trials() if trial.state.name == "COMPLETE" and is_feasible(trial)]
        sign = 1 if self.objective.direction == "maximize" else -1
        return max(kept, key=lambda trial: sign * trial.value, default=None)

    def importances(self) -> dict[str, float]:
        """Returns how much of the objective each argument decides, by Optuna's PED-ANOVA; empty for few trials."""
        if len({trial.value for trial in self.trials() if trial.state.name == "COMPLETE"}) < 5:
            return {}
        evaluator = optuna().importance.PedAnovaImportanceEvaluator()
        return dict(optuna().importance.get_param_importances(self._study(), evaluator=evaluator))

    def command_of(self, trial: Any) -> list[str]:
        """Returns the command that a trial runs."""
        swept = [word for name, value in trial.params.items() for word in self.space[name].argv(value)]
        return [*self.command, *swept, "--output_dir", str(self.folder_of(trial.number))]

    def folder_of(self, number: int) -> Path:
        """Returns the folder of a trial."""
        return self.folder / f"trial-{number:04}"

    # -- one worker --------------------------------------------------------------------------------------------------

    def _work(self, trials: int, stop: Event) -> None:
        try:
            while not stop.is_set():
                with self._locked():
                    if len(self.trials()) >= trials:
                        return
                    study, trial, held = self._next()
                try:
                    self._see_through(study, trial, stop)
                finally:
                    held.release()
        except BaseException:
            stop.set()
            raise

    def _see_through(self, study: Any, trial: Any, stop: Event) -> None:
        """Runs a trial and tells how it ended."""
        try:
            ended = self._outcome(trial, stop)
        except Interrupted:
            ended = None
        with self._locked():  # else another process may see it unfinished, and then held by nobody
            if ended is None:
                self._run_again(study, trial)
            else:
                self._finish(study, trial, *ended)

    def _next(self) -> tuple[Any, Any, FileLock]:
        """Returns a new trial, and the lock that says that its process lives."""
        study = self._study()
        trial = study.ask({name: dimension.distribution() for name, dimension in self.space.items()})
        self.folder_of(trial.number).mkdir()
        held = self._life(trial.number)
        held.acquire()
        return study, trial, held

    def _outcome(self, trial: Any, stop: Event) -> tuple[str, float | None, str]:
        """Runs a trial; returns how it ended, its objective, and why it has none."""
        same = (one for one in self.trials() if one.state.name == "COMPLETE" and one.params == trial.params)
        if (known := next(same, None)) is not None:  # it would train the same model
            self._note(trial, known.user_attrs["kl"])
            return "COMPLETE", known.value, f"as trial {known.number}"
        folder = self.folder_of(trial.number)
        (folder / "command.txt").write_text(as_command(self.command_of(trial)) + "\n", encoding="utf-8")
        try:
            scores = run_trial(trial, self.command_of(trial), folder, self.objective, stop)
        except TrialPruned as pruned:
            return "PRUNED", None, str(pruned)
        except TrialFailed as error:
            return "FAIL", None, str(error)
        value, kl = self.objective.value(scores), scores.get("kl", math.nan)
        if value is None:
            raise ValueError(f"objective {self.objective.name!r} was not measured, only {', '.join(scores)}")
        if not math.isfinite(value):
            return "FAIL", None, f"{self.objective.name} is {value}"
        self._note(trial, kl)
        return "COMPLETE", value, ""

    def _note(self, trial: Any, kl: float) -> None:
        trial.set_user_attr("kl", kl)
        if self.objective.max_kl is not None:
            trial.set_constraint("kl", math.inf if math.isnan(kl) else kl - self.objective.max_kl)

    def _finish(self, study: Any, trial: Any, state: str, value: float | None, reason: str) -> None:
        trial.set_user_attr("reason", reason)
        self._tell_folder(trial, state, reason, value)
        study.tell(trial.number, value, state=getattr(optuna().trial.TrialState, state))
        shown = [
            state.lower() if value is None else f"{self.objective.name} {value:.6g}",
            *([reason] if reason else []),
        ]
        print(f"trial {trial.number}: {', '.join(shown)}", file=sys.stderr, flush=True)

    def _tell_folder(self, trial: Any, state: str, reason: str, value: float | None = None) -> None:
        told = {"state": state, "reason": reason, self.objective.name: value, **trial.params}
        (self.folder_of(trial.number) / "trial.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")

    # -- the study ---------------------------------------------------------------------------------------------------

    def _study(self) -> Any:
        """Each call reads the file, and begins the random numbers anew: a resumed study goes on, and repeats none."""
        library, path = optuna(), self.folder / JOURNAL
        pruner = self.pruner or library.pruners.MedianPruner(self.startup_trials)
        backend = library.storages.journal.JournalFileBackend(str(path), self._journal_lock())
        study = library.create_study(
            study_name="sweep",
            storage=library.storages.JournalStorage(backend),
            direction=self.objective.direction,
            pruner=AmongFeasible(pruner) if self.prune else library.pruners.NopPruner(),
            load_if_exists=True,
        )
        digest = hashlib.sha256(f"{self.seed}, {len(study.trials)}".encode()).digest()  # consecutive seeds are alike
        seed = int.from_bytes(digest[:4], "big")
        study.sampler = library.samplers.TPESampler(n_startup_trials=self.startup_trials, seed=seed)
        return study

    def _mend(self) -> None:
        """Cuts off a last line that a crash of the machine has left without its end: the next would be glued to it."""
        path = self.folder / JOURNAL
        with self._journal_lock():
            if path.exists() and not (written := path.read_bytes()).endswith(b"\n"):
                os.truncate(path, written.rfind(b"\n") + 1)

    def _settings(self) -> dict[str, Any]:
        """Returns what makes trials comparable, as JSON gives it back."""
        command = [Path(self.command[0]).name, *self.command[1:]]  # which is the same from another folder
        told = {"command": command, "space": {k: asdict(v) for k, v in self.space.items()}}
        return dict(json.loads(json.dumps({**told, "objective": asdict(self.objective)})))

    def _journal_lock(self) -> FileLock:
        """Not `study.journal.lock`: that is Optuna's own, which outlives a killed process."""
        return FileLock(self.folder / "journal.lock")

    def _locked(self) -> FileLock:
        return FileLock(self.folder / "sweep.lock")

    def _life(self, number: int) -> FileLock:
        return FileLock(self.folder_of(number) / "alive.lock")

    def _is_dead(self, number: int) -> bool:
        if not self.folder_of(number).is_dir():  # killed before it had one
            return True
        life = self._life(number)
        free = life.acquire(wait=False)
        life.release()
        return free

    def _run_again(self, study: Any, trial: Any) -> None:
        if self.folder_of(trial.number).is_dir():
            self._tell_folder(trial, "INTERRUPTED", "its sweep was stopped; it is run again under another number")
        study.enqueue_trial(trial.params, user_attrs={"again": trial.number})
        study.tell(trial.number, state=optuna().trial.TrialState.FAIL)
