"""What a reward knows of a text that is not finished yet: a few numbers before each token.

Rewards compute these numbers with this package, and critics and dense rewards read them. Only the text so far is read,
never the token that comes next: otherwise a value would depend on the action that it is a baseline of.
"""

from .alignment import distances_so_far, lcs_so_far
from .heads import HeadOutputs
from .joining import (
    as_if_ended,
    join_progress,
    join_progress_and_potential,
    potential_of,
    potentials,
    progress_of_each,
    side_by_side,
)
from .ngrams import Symbols, ngram_totals, ngram_totals_of_references, shared_ngrams
from .overlap import Overlap
from .phrases import distinct_so_far, found_so_far, lengths_so_far, phrase_pattern
from .prefixes import Prefixes, PrefixFinder, Progress
from .units import UnitsSoFar, characters_so_far, units_so_far

__all__ = [
    "HeadOutputs",
    "Overlap",
    "PrefixFinder",
    "Prefixes",
    "Progress",
    "Symbols",
    "UnitsSoFar",
    "as_if_ended",
    "characters_so_far",
    "distances_so_far",
    "distinct_so_far",
    "found_so_far",
    "join_progress",
    "join_progress_and_potential",
    "lcs_so_far",
    "lengths_so_far",
    "ngram_totals",
    "ngram_totals_of_references",
    "phrase_pattern",
    "potential_of",
    "potentials",
    "progress_of_each",
    "shared_ngrams",
    "side_by_side",
    "units_so_far",
]
