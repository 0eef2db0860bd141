"""Hyperparameter search with Optuna: a trial is a run of a recipe, and a study continues after a kill."""

from .arguments import SweepArguments
from .results import plot, summary
from .space import read_space
from .study import Sweep

__all__ = ["Sweep", "SweepArguments", "plot", "read_space", "summary"]
