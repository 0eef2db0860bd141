"""Hyper-parameter search: what is searched, trials that are runs of a recipe, the study that outlives a kill."""

from .arguments import SweepArguments
from .objective import Objective
from .picture import draw
from .space import Dimension, read_space
from .study import Sweep
from .summary import summary

__all__ = ["Dimension", "Objective", "Sweep", "SweepArguments", "draw", "read_space", "summary"]
