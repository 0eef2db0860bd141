"""ROUGE-N, ROUGE-L and ROUGE-Lsum, equal to those of Google's rouge_score."""

import functools
import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lmrl.libraries import Array, rapidfuzz
from lmrl.progress import Overlap, lcs_so_far
from lmrl.utils import check_in, shorten

from .grams import SacrebleuTokens, ngrams, occurrences, stemmer_of
from .references import ReferenceReward

_WORD = re.compile("[a-z0-9]+")
_TYPE = re.compile("rouge([1-9]|L|Lsum)")

# A text as its number of units and the units: a set of n-grams, a list of tokens, or a list of sentences of tokens.
Units = tuple[int, Any]


@functools.lru_cache(maxsize=2**11)
def _tokens(text: str, use_stemmer: bool) -> list[str]:
    """Returns the words of a text; cached, as several types of ROUGE often score the same batch."""
    words = _WORD.findall(text.lower())
    if not use_stemmer:
        return words
    stem = stemmer_of("porter")
    return [stem(word) if len(word) > 3 else word for word in words]  # as in rouge_score and ROUGE-1.5.5


def _places(sentence: list[str]) -> dict[str, int]:
    """Returns for each token an integer with a bit set at each of its positions."""
    places: dict[str, int] = {}
    for position, token in enumerate(sentence):
        places[token] = places.get(token, 0) | 1 << position
    return places


def _lcs_positions(reference: list[str], places: dict[str, int], length: int) -> set[int]:
    """
    Returns the positions in `reference` of its longest common subsequence with a sentence, given by `places`.

    Of several longest ones it is the one that rouge_score finds. Let `t[i][j]` be the length for the first i tokens of
    the reference and the first j of the sentence. The recurrence over i is that of "Bit-Parallel LCS-length
    Computation Revisited" (Hyyrö, 2004): bit j of `level` is set where `t[i][j + 1] == t[i][j]`, and the carries of
    the addition show where `t[i][j + 1] > t[i - 1][j + 1]`.
    """
    shared = [position for position, token in enumerate(reference) if token in places]  # others cannot match
    everywhere = (1 << length) - 1
    level = everywhere
    takes = []
    for position in shared:
        matches = places[reference[position]]
        hits = level & matches
        total = level + hits
        takes.append(matches | (level ^ hits ^ total) >> 1)
        level = (total | level ^ hits) & everywhere
    positions = set()
    end = 1 << length >> 1  # bit of the last token of the sentence not yet matched
    for position, take in zip(reversed(shared), reversed(takes), strict=True):
        if end & take:  # its last match up to `end` is in the subsequence
            positions.add(position)
            match = places[reference[position]] & end * 2 - 1
            end = 1 << match.bit_length() >> 2
    return positions


def _summary_hits(reference: list[list[str]], completion: list[list[str]]) -> int:
    """Returns the size of the union LCS, no token counted more often than either text has it (as ROUGE-1.5.5 does)."""
    if len(reference) == len(completion) == 1:
        # Nothing to unite, and an LCS is in both texts.
        return int(rapidfuzz.distance.LCSseq.similarity(reference[0], completion[0]))
    left = Counter(token for sentence in reference for token in sentence)
    left &= Counter(token for sentence in completion for token in sentence)
    sentences = [(_places(sentence), len(sentence)) for sentence in completion]
    hits = 0
    for sentence in reference:
        for position in set().union(*(_lcs_positions(sentence, *other) for other in sentences)):
            if left[sentence[position]] > 0:
                left[sentence[position]] -= 1
                hits += 1
    return hits


@dataclass(eq=False, repr=False)
class Rouge(ReferenceReward[list[Units]]):
    """
    Returns the ROUGE F-measure of each completion, in [0, 1]: rouge_score's `fmeasure`.

    `2 P R / (P + R)` with P the hits over the completion's units and R the hits over the reference's. Hits are the
    n-grams in common (`"rouge1"`, `"rouge2"` ...), the length of the longest common subsequence of words (`"rougeL"`),
    or that of the union of the subsequences that the completion's lines share with each line of the reference
    (`"rougeLsum"`; sentences are lines). From "ROUGE: A Package for Automatic Evaluation of Summaries" (Lin, 2004,
    https://aclanthology.org/W04-1013). Words are runs of `a-z0-9` in the lowercased text, unless `tokenize` is set: in
    other scripts there are none, and references in one cause a warning.

    Args:
        rouge_type (`str`):
            `"rouge1"` to `"rouge9"`, `"rougeL"` or `"rougeLsum"`.
        use_stemmer (`bool`, *optional*, defaults to `False`):
            Whether words of more than three characters are reduced to their Porter stem; not with `tokenize`.
        aggregate (`str`, *optional*, defaults to `"best"`):
            `"best"` reference, which is rouge_score's `score_multi`, or `"mean"` over the references.
        tokenize (`str` or object, *optional*):
            Defines words otherwise: name of a sacrebleu tokenizer for the lowercased text (`"13a"`, or `"zh"`,
            `"char"` where no spaces separate words), or an object with a method `tokenize`, as rouge_score takes it.
    """

    rouge_type: str
    use_stemmer: bool = False
    aggregate: str = "best"
    tokenize: Any = None
    name: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        if not _TYPE.fullmatch(self.rouge_type):
            raise ValueError(f"`rouge_type` must be rouge1 to rouge9, rougeL or rougeLsum, got {self.rouge_type!r}.")
        check_in(("best", "mean"), aggregate=self.aggregate)
        self.name = self.name or self.rouge_type
        super().__post_init__()
        kind = self.rouge_type.removeprefix("rouge")
        self._order = int(kind) if kind.isdigit() else 1  # words of an n-gram
        self.progress_order = max(self.progress_order, self._order)
        if self.use_stemmer:
            stemmer_of("porter")  # a missing nltk is an error here, not in the first training step
        if self.use_stemmer and self.tokenize is not None:
            raise ValueError("`use_stemmer` must be False with `tokenize`, got True. The stemmer is for a-z alone.")
        options = f"stem:{'porter' if self.use_stemmer else 'no'}"
        self._words: Callable[[str], list[str]] = functools.partial(_tokens, use_stemmer=self.use_stemmer)
        if isinstance(self.tokenize, str):
            self._words = SacrebleuTokens(self.tokenize, lowercase=True)
            options = f"tok:{self.tokenize}|case:lc"
        elif self.tokenize is not None:
            self._words = self.tokenize.tokenize
            options = f"tok:{type(self.tokenize).__name__}"
        self._warns = self.tokenize is None
        self._signature = f"{self.rouge_type}|nrefs:var|agg:{self.aggregate}|{options}|as:rouge_score-0.1.2"

    def prepare(self, references: tuple[str, ...]) -> list[Units]:
        """Returns the units of each reference of a row; warns once if most of their letters are not a-z."""
        text = "".join(references)
        letters = [letter.isascii() for letter in text if letter.isalnum()] if not text.isascii() else []
        if self._warns and 2 * sum(letters) < len(letters):
            self._warns = False
            warnings.warn(
                f"The reward {self.__name__!r} reads the letters a-z and digits alone, as rouge_score does. That "
                f"leaves little of the reference {shorten(references[0])}. Set `tokenize`: '13a', or 'zh' or 'char' "
                "where no spaces separate words.",
                stacklevel=5,
            )
        return super().prepare(references)

    def units(self, text: str) -> Units:
        """Returns the units that the type of ROUGE counts, and their number."""
        if self.rouge_type == "rougeLsum":
            sentences = [tokens for line in text.split("\n") if (tokens := self._words(line))]
            return sum(map(len, sentences)), sentences
        tokens = self._words(text)
        if self.rouge_type == "rougeL":
            return len(tokens), tokens
        grams = occurrences(tokens if self._order == 1 else ngrams(tokens, self._order))
        return len(grams), grams

    def progress_units(self, text: str) -> Sequence[str]:
        """Returns the words that its `progress` counts."""
        return self._words(text)

    def as_if_ended(self, overlap: Overlap) -> Array:
        """Returns the ROUGE of each text so far, (N,); ROUGE-Lsum treats the text as a single line."""
        if self.rouge_type.startswith("rougeL"):
            hits = lcs_so_far(overlap.texts, overlap.units)
        else:
            hits = overlap.counts.shared[:, self._order - 1]
        totals = (overlap.reference_lengths - self._order + 1).clip(min=0)
        scores = 2 * hits / (overlap.totals[:, self._order - 1, None] + totals).clip(min=1)
        return overlap.best(scores) if self.aggregate == "best" else overlap.mean(scores)

    def score(self, completion: str, prepared: list[Units]) -> float:
        """Returns the F-measure of a completion: the best, or the mean, over its references."""
        size, units = self.units(completion)
        # 2 P R / (P + R) with P = hits / size and R = hits / total
        scores = [2 * self._hits(reference, units) / max(size + total, 1) for total, reference in prepared]
        return max(scores) if self.aggregate == "best" else sum(scores) / len(scores)

    def _hits(self, reference: Any, completion: Any) -> int:
        if self.rouge_type == "rougeL":
            return int(rapidfuzz.distance.LCSseq.similarity(reference, completion))
        if self.rouge_type == "rougeLsum":
            return _summary_hits(reference, completion)
        return len(reference & completion)
