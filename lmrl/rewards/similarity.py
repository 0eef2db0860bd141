"""Equality, word overlap and edit similarity of short texts and their references."""

import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lmrl.libraries import Array, np, rapidfuzz
from lmrl.progress import Overlap, Prefixes, UnitsSoFar, characters_so_far, distances_so_far
from lmrl.utils import check_in

from .grams import occurrences
from .references import ReferenceReward

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _squad(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


_NORMALIZATIONS: dict[str, Callable[[str], str]] = {"strip": str.strip, "squad": _squad}


@dataclass(eq=False, repr=False)
class ExactMatch(ReferenceReward[list[str]]):
    """
    Returns 1 if the completion equals any of the references after normalisation, else 0.

    Args:
        normalize (`str`, *optional*, defaults to `"strip"`):
            `"strip"`: white space at both ends is dropped. `"squad"`: case, ASCII punctuation, the articles a, an and
            the, and differences of white space are dropped, as in the evaluation of "SQuAD: 100,000+ Questions for
            Machine Comprehension of Text" (Rajpurkar et al., 2016, https://arxiv.org/abs/1606.05250).
    """

    normalize: str = "strip"
    name: str = field(default="exact_match", kw_only=True)

    def __post_init__(self) -> None:
        check_in(_NORMALIZATIONS, normalize=self.normalize)
        super().__post_init__()
        self._signature = f"exact_match|nrefs:var|normalize:{self.normalize}"

    def units(self, text: str) -> str:
        """Returns the normalised text."""
        return _NORMALIZATIONS[self.normalize](text)

    def as_if_ended(self, overlap: Overlap) -> Array:
        """Returns 1 or 0 for each text so far, (N,)."""
        rows = zip(overlap.prefixes, overlap.references, strict=True)
        return np.array([self.score(text, row) for each, of in rows for row in [self._prepared(of)] for text in each])

    def score(self, completion: str, prepared: list[str]) -> float:
        """Returns 1 or 0."""
        return float(self.units(completion) in prepared)


@dataclass(eq=False, repr=False)
class TokenF1(ReferenceReward[list[set[Any]]]):
    """
    Returns the F1 of the words that a completion shares with a reference, in [0, 1], best over its references.

    `2 P R / (P + R)` with P and R the shares of the completion's and of the reference's words that are also in the
    other, counting repetitions. From "SQuAD: 100,000+ Questions for Machine Comprehension of Text" (Rajpurkar et al.,
    2016, https://arxiv.org/abs/1606.05250). Without words SQuAD 1.1 gives 0; this follows SQuAD 2.0 ("Know What You
    Don't Know: Unanswerable Questions for SQuAD", Rajpurkar et al., 2018, https://arxiv.org/abs/1806.03822), for which
    an empty completion is correct where no text is expected: 1 if both have no words, else 0.

    Args:
        normalize (`str`, *optional*, defaults to `"squad"`):
            `"squad"`: case, ASCII punctuation, and the articles a, an and the are dropped, as in the evaluation of
            SQuAD. `"strip"`: the text is taken as it is. Words are what white space separates.
    """

    normalize: str = "squad"
    name: str = field(default="token_f1", kw_only=True)

    def __post_init__(self) -> None:
        check_in(_NORMALIZATIONS, normalize=self.normalize)
        super().__post_init__()
        self._signature = f"token_f1|nrefs:var|normalize:{self.normalize}"

    def units(self, text: str) -> set[Any]:
        """Returns the words of a text."""
        return occurrences(_NORMALIZATIONS[self.normalize](text).split())

    def progress_units(self, text: str) -> Sequence[str]:
        """Returns the words that its `progress` counts."""
        return _NORMALIZATIONS[self.normalize](text).split()

    def as_if_ended(self, overlap: Overlap) -> Array:
        """Returns the F1 of each text so far, (N,)."""
        lengths = overlap.lengths[:, None] + overlap.reference_lengths
        return overlap.best(np.where(lengths > 0, 2 * overlap.counts.shared[:, 0] / lengths.clip(min=1), 1.0))

    def score(self, completion: str, prepared: list[set[Any]]) -> float:
        """Returns the F1 of a completion with its best reference, in [0, 1]."""
        words = self.units(completion)
        return max(2 * len(words & other) / (len(words) + len(other)) if words or other else 1.0 for other in prepared)


_UNITS: dict[str, Callable[[str], Sequence[str]]] = {"characters": str.strip, "words": str.split}


@dataclass(eq=False, repr=False)
class EditSimilarity(ReferenceReward[list[Sequence[str]]]):
    """
    Returns `1 - d(a, b) / max(|a|, |b|)` of a completion a and a reference b, in [0, 1], best over its references.

    d is the distance of "Binary codes capable of correcting deletions, insertions, and reversals" (Levenshtein, 1966):
    the least number of units inserted, deleted or replaced that turns one text into the other; |a| is the number of
    units in a. Case counts, white space at both ends does not. Empty against empty is 1.

    Args:
        unit (`str`, *optional*, defaults to `"characters"`):
            `"characters"` (code points) or `"words"` (what white space separates).
    """

    unit: str = "characters"
    name: str = field(default="edit_similarity", kw_only=True)

    def __post_init__(self) -> None:
        check_in(_UNITS, unit=self.unit)
        super().__post_init__()
        self._signature = f"edit_similarity|nrefs:var|unit:{self.unit}"

    def units(self, text: str) -> Sequence[str]:
        """Returns the characters or the words of a text."""
        return _UNITS[self.unit](text)

    progress_units = units

    def so_far(self, prefixes: Prefixes, units: Callable[[str], Sequence[str]]) -> UnitsSoFar:
        """Returns the characters or the words of a text so far."""
        return characters_so_far(prefixes) if self.unit == "characters" else super().so_far(prefixes, units)

    def as_if_ended(self, overlap: Overlap) -> Array:
        """Returns the similarity of each text so far, (N,)."""
        longer = np.maximum(overlap.lengths[:, None], overlap.reference_lengths).clip(min=1)
        return overlap.best(1 - distances_so_far(overlap.texts, overlap.units) / longer)

    def score(self, completion: str, prepared: list[Sequence[str]]) -> float:
        """Returns the similarity of a completion to its best reference, in [0, 1]."""
        units = self.units(completion)
        similarity: Callable[..., float] = rapidfuzz.distance.Levenshtein.normalized_similarity
        return max(similarity(units, reference) for reference in prepared)
