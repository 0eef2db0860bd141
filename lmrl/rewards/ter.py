"""One minus the translation edit rate, equal to sacrebleu's."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .grams import occurrences
from .moves import edits
from .references import Array, SummedReward, divide

Words = tuple[list[str], set[Any]]  # in order, and as a multiset


def error_rate(sums: Array) -> Array:
    """
    Returns the TER, at least 0: edits over mean lengths of references; 1 for edits of empty references.

    Args:
        sums (`numpy.ndarray` of shape `(..., 2)`):
            Sums of [`TER.statistics`] over the rows of a corpus, or those of one sentence.

    Returns:
        `numpy.ndarray` of shape `(...)`.
    """
    import numpy as np

    edits = sums[..., 0]
    return divide(edits, sums[..., 1], np.sign(edits))


@dataclass(eq=False, repr=False)
class TER(SummedReward[list[Words]]):
    """
    Returns `1 - min(TER, 1)` of each completion, in [0, 1]: sacrebleu's sentence TER as a reward.

    TER is the least number of edits (words inserted, deleted or replaced, and runs of words moved) that turn the
    completion into one of its references, over the mean length of the references. From "A Study of Translation Edit
    Rate with Targeted Human Annotation" (Snover et al., 2006, https://aclanthology.org/2006.amta-papers.25). An error
    rate above 1 is counted as 1: a completion that needs more edits than its references have words gets 0, however
    many. Empty against empty is 1.

    Because of the mean length, one more reference can lower the reward.

    Args:
        normalized (`bool`, *optional*, defaults to `False`):
            Whether to separate punctuation from words. Without it "mat." is another word than "mat".
        no_punct (`bool`, *optional*, defaults to `False`):
            Whether to drop punctuation.
        asian_support (`bool`, *optional*, defaults to `False`):
            Whether `normalized` and `no_punct` also treat Chinese and Japanese characters and marks.
        case_sensitive (`bool`, *optional*, defaults to `False`):
            Whether case counts.
        name (defaults to `"ter"`), column, cache_size:
            Those of [`ReferenceReward`].

    Raises:
        ValueError: If `asian_support` is set without `normalized` or `no_punct`, as it would do nothing.
    """

    normalized: bool = False
    no_punct: bool = False
    asian_support: bool = False
    case_sensitive: bool = False
    name: str = field(default="ter", kw_only=True)

    def __post_init__(self) -> None:
        from sacrebleu.metrics.ter import TER as SacreTER

        if self.asian_support and not (self.normalized or self.no_punct):
            raise ValueError("`asian_support` must be False without `normalized` or `no_punct`, got True. Set one.")
        super().__post_init__()
        metric = SacreTER(
            normalized=self.normalized,
            no_punct=self.no_punct,
            asian_support=self.asian_support,
            case_sensitive=self.case_sensitive,
        )
        metric.num_refs = -1  # a number of references that varies
        self._tokenizer = metric.tokenizer
        self._signature = f"ter|{metric.get_signature().format()}"

    def _words(self, text: str) -> Words:
        words: list[str] = self._tokenizer(text.rstrip()).split()  # rstrip: as sacrebleu does
        return words, occurrences(words)

    def prepare(self, references: tuple[str, ...]) -> list[Words]:
        """Returns the words of each reference of a row."""
        return [self._words(reference) for reference in references]

    def row_statistics(self, completion: str, prepared: list[Words]) -> list[float]:
        """Returns the edits and the mean length of the references."""
        words, counted = self._words(completion)
        # No move changes which words there are: those that one text has more of are the least edits. The search for
        # moves costs most: the most promising reference comes first, and those that cannot be better are left out.
        bounds = sorted(
            (max(len(counted), len(other)) - len(counted & other), place) for place, (_, other) in enumerate(prepared)
        )
        best = math.inf
        for bound, place in bounds:
            if bound < best:
                best = min(best, edits(words, prepared[place][0], bound, best))
        return [best, sum(len(reference) for reference, _ in prepared) / len(prepared)]

    def from_statistics(self, sums: Array) -> Sequence[float]:
        """Returns one minus the TER of each row of statistics, in [0, 1]."""
        scores: list[float] = (1 - error_rate(sums).clip(max=1.0)).tolist()
        return scores
