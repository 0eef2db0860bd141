"""Runs of a recipe with several seeds, their summary, and the comparison of two configurations over seeds and rows."""

from .folders import SeedFolder, is_seed_folder, read_seeds
from .report import report_seeds
from .runs import run_seeds, split_flags
from .statistics import SeedDifference, Spread, compare_seeds, spread, welch_p

__all__ = [
    "SeedDifference",
    "SeedFolder",
    "Spread",
    "compare_seeds",
    "is_seed_folder",
    "read_seeds",
    "report_seeds",
    "run_seeds",
    "split_flags",
    "spread",
    "welch_p",
]
