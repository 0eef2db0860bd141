"""NIST: the formula, for sentences and corpora, and the reward."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from .corpus import CorpusReward
from .grams import Gram, GramTable, corpus_counts
from .references import Array, SummedReward, divide

MAX_ORDER = 5
_BETA = math.log(0.5) / math.log(1.5) ** 2


class NistReferences(NamedTuple):
    """The references of a row: their n-grams, and their mean length."""

    table: GramTable
    length: float


def nist_score(sums: Array) -> Array:
    """
    Returns the NIST, at least 0: that of a completion from its statistics, that of a corpus from their sum over rows.

    `exp(beta * log(min(1, c / r))^2) * sum over n = 1..5 of info_n / total_n`, as [`NIST`] explains. An order
    without n-grams adds 0.

    Args:
        sums (`numpy.ndarray` of shape `(..., 11)`):
            `info_1 ... info_5, total_1 ... total_5, r`, as [`NIST.statistics`] gives for each row; c is `total_1`.

    Returns:
        `numpy.ndarray` of shape `(...)`.
    """
    import numpy as np

    information, totals, reference = np.split(sums, [MAX_ORDER, 2 * MAX_ORDER], axis=-1)
    brevity = np.minimum(divide(totals[..., 0], reference[..., 0], 0), 1)
    with np.errstate(divide="ignore"):
        penalty = np.exp(_BETA * np.log(brevity) ** 2)  # 0 where brevity is
    score: Array = penalty * divide(information, totals, 0).sum(axis=-1)
    return score


@dataclass(eq=False, repr=False)
class NIST(CorpusReward[NistReferences], SummedReward[NistReferences]):
    """
    Returns the NIST-5 of each completion against all its references, at least 0.

    `exp(beta * log(min(1, c / r))^2) * sum over n = 1..5 of info_n / total_n`. Of the `total_n` n-grams of a
    completion, those that occur in a reference, each counted at most as often as in the reference that has it most
    often, have together the information `info_n`. One n-gram has `log2(#(w_1 ... w_n-1) / #(w_1 ... w_n))`, where #
    counts occurrences in a training corpus, the empty sequence occurs once per word, and one that never occurs counts
    as 1. c is the length of the completion, r the mean length of its references, and beta such that the penalty is 1/2
    at c / r = 2/3. From "Automatic Evaluation of Machine Translation Quality Using N-gram Co-Occurrence Statistics"
    (Doddington, 2002), with the penalty of NIST's mteval-v13a.

    The score has no upper end of its own: rare words inform more in a larger corpus. `range` ends at the sum over n
    of the largest information that any n-gram can have, far above what a text reaches.

    The NIST of a corpus is no mean over rows: [`nist_score`] of the summed [`NIST.statistics`]. With the references of
    that corpus as `corpus`, it is mteval's. (nltk's differs where a row has several references: it takes for each
    order the one with the best precision, and its length as r.)

    Args:
        corpus, corpus_column, tokenize, lowercase:
            Those of [`CorpusReward`].
        name (defaults to `"nist"`), column, cache_size:
            Those of [`ReferenceReward`].

    Raises:
        ValueError: If the corpus cannot be read or has no words, or if sacrebleu has no such tokenizer.

    Example:

    ```python
    >>> nist = NIST(corpus=[["a b a c"]])
    >>> nist(completions=["b"], references=["b"])  # log2(4 words / 1 b)
    [2.0]
    ```
    """

    name: str = field(default="nist", kw_only=True)

    def __post_init__(self, corpus: str | Path | Iterable[Any], corpus_column: str | None) -> None:
        super().__post_init__(corpus, corpus_column)
        most = [0] * MAX_ORDER
        for gram, count in self.counts.items():
            if len(gram) < MAX_ORDER:
                most[len(gram)] = max(most[len(gram)], count)
        if not most[0]:
            raise ValueError("NIST needs a corpus of at least 2 words, to weigh n-grams by how common they are.")
        self.range = (0.0, sum(math.log2(count) for count in most if count))
        self._signature = f"nist|n:{MAX_ORDER}|{self.corpus_signature()}"

    def count(self, documents: list[list[list[str]]]) -> dict[Gram, int]:
        """Returns for each n-gram how often it occurs, and for the empty one the number of words."""
        words = sum(len(tokens) for references in documents for tokens in references)
        return ({(): words} if words > 1 else {}) | corpus_counts(documents, MAX_ORDER, once=False)

    def _information(self, gram: Gram) -> float:
        return math.log2(self.counts.get(gram[:-1], 1) / self.counts.get(gram, 1))

    def prepare(self, references: tuple[str, ...]) -> NistReferences:
        """Returns the n-grams and the mean length of the references of a row."""
        tokens = [self.tokens(reference) for reference in references]
        return NistReferences(GramTable(tokens, MAX_ORDER), sum(map(len, tokens)) / len(tokens))

    def row_statistics(self, completion: str, prepared: NistReferences) -> list[float]:
        """Returns the information and the number of n-grams of orders 1 to 5, and the mean length of references."""
        tokens = self.tokens(completion)
        rows, counts = prepared.table.shared(tokens)
        hits = counts.clip(max=prepared.table.counts[rows].max(axis=1)).tolist()
        information = [0.0] * MAX_ORDER
        for gram, count in zip(prepared.table.grams(rows), hits, strict=True):
            information[len(gram) - 1] += count * self._information(gram)
        totals = [float(max(len(tokens) - lost, 0)) for lost in range(MAX_ORDER)]
        return [*information, *totals, prepared.length]

    def from_statistics(self, sums: Array) -> Sequence[float]:
        """Returns the NIST of each row of statistics."""
        scores: list[float] = nist_score(sums).tolist()
        return scores
