"""Trials that keep the bound on the KL."""

from typing import Any


def is_feasible(trial: Any) -> bool:
    """Returns whether a trial keeps the bound on the KL."""
    return all(value <= 0 for value in trial.constraints.values())


class AmongFeasible:
    """A pruner that does not hold a trial to what others reached by paying more KL than is allowed."""

    def __init__(self, pruner: Any) -> None:
        self._pruner = pruner

    def prune(self, study: Any, trial: Any) -> bool:
        """Returns whether a trial is to be stopped."""
        return bool(self._pruner.prune(_Feasible(study), trial))


class _Feasible:
    """A study without the trials over the bound."""

    def __init__(self, study: Any) -> None:
        self._study = study

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def get_trials(self, **kwargs: Any) -> list[Any]:
        """Returns those that keep the bound."""
        return [trial for trial in self._study.get_trials(**kwargs) if is_feasible(trial)]
