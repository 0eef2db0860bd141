"""Comparison of systems text by text: win rates, and the gain from several samples per prompt."""

from .samples import (
    BestOf,
    BestOfSamples,
    best_of,
    best_of_samples,
    most_typical,
    pass_at,
    reference_column,
    similarities,
)
from .tables import printed_table, printed_tables, with_samples, with_win_rates
from .winrates import WinRate, sign_test, win_rate

__all__ = [
    "BestOf",
    "BestOfSamples",
    "WinRate",
    "best_of",
    "best_of_samples",
    "most_typical",
    "pass_at",
    "printed_table",
    "printed_tables",
    "reference_column",
    "sign_test",
    "similarities",
    "win_rate",
    "with_samples",
    "with_win_rates",
]
