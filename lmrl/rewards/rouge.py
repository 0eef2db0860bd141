"""ROUGE-N, ROUGE-L and ROUGE-Lsum, equal to those of Google's rouge_score."""

import functools
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lmrl.utils import check_in

from .grams import ngrams, occurrences
from .references import ReferenceReward

_WORD = re.compile("[a-z0-9]+")
_TYPE = re.compile("rouge([1-9]|L|Lsum)")

# A text as its number of units and the units: a set of n-grams, a list of tokens, or a list of sentences of tokens.
Units = tuple[int, Any]


@functools.cache
def _stemmer() -> Callable[[str], str]:
    from nltk.stem.porter import PorterStemmer

    stem: Callable[[str], str] = PorterStemmer().stem
    return stem


@functools.lru_cache(maxsize=2**16)
def _stem(word: str) -> str:
    return _stemmer()(word) if len(word) > 3 else word  # shorter words are left alone by rouge_score and ROUGE-1.5.5


@functools.lru_cache(maxsize=2**11)
def _tokens(text: str, use_stemmer: bool) -> list[str]:
    """Returns the words of a text, kept for the other types of ROUGE of the same batch."""
    words = _WORD.findall(text.lower())
    return list(map(_stem, words)) if use_stemmer else words


def _gram_hits(reference: set[Any], completion: set[Any]) -> int:
    return len(reference & completion)


def _sequence_hits(reference: list[str], completion: list[str]) -> int:
    from rapidfuzz.distance.LCSseq import similarity

    length: int = similarity(reference, completion)
    return length


def _summary_hits(reference: list[list[str]], completion: list[list[str]]) -> int:
    """Returns the size of the union LCS, no token counted more often than either text has it (as ROUGE-1.5.5 does)."""
    from rouge_score.rouge_scorer import lcs_ind

    if len(reference) == len(completion) == 1:
        return _sequence_hits(reference[0], completion[0])  # nothing to unite, and an LCS is in both texts
    left = Counter(token for sentence in reference for token in sentence)
    left &= Counter(token for sentence in completion for token in sentence)
    hits = 0
    for sentence in reference:
        for position in set().union(*(lcs_ind(sentence, other) for other in completion)):
            if left[sentence[position]] > 0:
                left[sentence[position]] -= 1
                hits += 1
    return hits


_HITS: dict[str, Callable[[Any, Any], int]] = {"rougeL": _sequence_hits, "rougeLsum": _summary_hits}


def _f_measure(hits: int, reference: int, completion: int) -> float:
    if not hits:
        return 0.0
    precision, recall = hits / completion, hits / reference
    return 2 * precision * recall / (precision + recall)


@dataclass(eq=False, repr=False)
class Rouge(ReferenceReward[list[Units]]):
    """
    Returns the ROUGE F-measure of each completion, in [0, 1]: rouge_score's `fmeasure`.

    `2 P R / (P + R)` with P the hits over the completion's units and R the hits over the reference's. Hits are the
    n-grams in common (`"rouge1"`, `"rouge2"` ...), the length of the longest common subsequence of words (`"rougeL"`),
    or that of the union of the subsequences that the completion's lines share with each line of the reference
    (`"rougeLsum"`; sentences are lines). From "ROUGE: A Package for Automatic Evaluation of Summaries" (Lin, 2004,
    https://aclanthology.org/W04-1013). Words are runs of `a-z0-9` in the lowercased text: no other script has any.

    Args:
        rouge_type (`str`):
            `"rouge1"` to `"rouge9"`, `"rougeL"` or `"rougeLsum"`.
        use_stemmer (`bool`, *optional*, defaults to `False`):
            Whether words of more than three characters are reduced to their Porter stem.
        aggregate (`str`, *optional*, defaults to `"best"`):
            `"best"` reference, which is rouge_score's `score_multi`, or `"mean"` over the references.
        name (defaults to `rouge_type`), column, cache_size:
            Those of [`ReferenceReward`].

    Raises:
        ValueError: If there is no such `rouge_type` or `aggregate`.
    """

    rouge_type: str
    use_stemmer: bool = False
    aggregate: str = "best"
    name: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        if not _TYPE.fullmatch(self.rouge_type):
            raise ValueError(f"`rouge_type` must be rouge1 to rouge9, rougeL or rougeLsum, got {self.rouge_type!r}.")
        check_in(("best", "mean"), aggregate=self.aggregate)
        self.name = self.name or self.rouge_type
        super().__post_init__()
        if self.use_stemmer:
            _stemmer()  # a missing nltk is an error here, not in the first training step
        stem = "porter" if self.use_stemmer else "no"
        self._signature = f"{self.rouge_type}|nrefs:var|agg:{self.aggregate}|stem:{stem}|as:rouge_score-0.1.2"

    def _units(self, text: str) -> Units:
        if self.rouge_type == "rougeL":
            tokens = _tokens(text, self.use_stemmer)
            return len(tokens), tokens
        if self.rouge_type == "rougeLsum":
            sentences = [tokens for line in text.split("\n") if (tokens := _tokens(line, self.use_stemmer))]
            return sum(map(len, sentences)), sentences
        tokens = _tokens(text, self.use_stemmer)
        order = int(self.rouge_type[5:])
        grams = occurrences(tokens if order == 1 else ngrams(tokens, order))
        return len(grams), grams

    def prepare(self, references: tuple[str, ...]) -> list[Units]:
        """Returns the units of each reference of a row."""
        return [self._units(reference) for reference in references]

    def score(self, completion: str, prepared: list[Units]) -> float:
        """Returns the F-measure of a completion, over its references the best or the mean."""
        size, units = self._units(completion)
        hits: Callable[[Any, Any], int] = _HITS.get(self.rouge_type, _gram_hits)
        scores = [_f_measure(hits(reference, units), total, size) for total, reference in prepared]
        return max(scores) if self.aggregate == "best" else sum(scores) / len(scores)
