"""CIDEr-D, equal to that of the COCO caption evaluation."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .corpus import CorpusReward
from .grams import Gram, GramTable, corpus_counts, ngrams

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

MAX_ORDER = 4
SIGMA = 6.0


class Vectors(NamedTuple):
    """Texts: their n-grams with the squared idf of each; norms of each order and text; their numbers of bigrams."""

    table: GramTable
    squares: "NDArray[float64]"
    norms: "NDArray[float64]"
    bigrams: "NDArray[float64]"


@dataclass(eq=False, repr=False)
class CIDErD(CorpusReward[Vectors]):
    """
    Returns the CIDEr-D of each completion, in [0, 10], mean over its references: the COCO caption evaluation's.

    `10 / 4 * sum over n = 1..4 of exp(-(l - l_r)^2 / (2 * 6^2)) * (min(g, g_r) . g_r) / (|g| |g_r|)`, where g and g_r
    hold, for each n-gram of completion and reference, its count times its idf `log(N / max(1, df))`: df of the N
    documents of a training corpus, a document being the references of one row, have the n-gram. A difference `l - l_r`
    in length is one in bigrams. From "CIDEr: Consensus-based Image Description Evaluation" (Vedantam et al., 2015,
    https://arxiv.org/abs/1411.5726), as implemented by its authors in the COCO caption evaluation, except that there
    the documents are the references passed in.

    An order of which a text has no n-gram of weight counts 0: a completion of two words that equals its reference has
    5, not 10. The CIDEr-D of a corpus is the mean over its rows.

    Args:
        corpus, corpus_column, tokenize, lowercase:
            Those of [`CorpusReward`].
        name (defaults to `"cider"`), column, cache_size:
            Those of [`ReferenceReward`].

    Raises:
        ValueError: If the corpus cannot be read or has less than two documents (every idf would be 0), or if sacrebleu
            has no such tokenizer.
    """

    name: str = field(default="cider", kw_only=True)

    def __post_init__(self, corpus: str | Path | Iterable[Any], corpus_column: str | None) -> None:
        super().__post_init__(corpus, corpus_column)
        if self.documents < 2:
            raise ValueError(
                f"CIDEr-D needs a corpus of at least 2 documents, got {self.documents}: an n-gram weighs by how few "
                "of them have it. Pass the references of the training split, one list per row."
            )
        self.range = (0.0, 10.0)
        self._most_squared = math.log(self.documents) ** 2
        self._idf_squared = {gram: math.log(self.documents / count) ** 2 for gram, count in self.counts.items()}
        self._signature = f"cider-d|{self.corpus_signature()}"

    def count(self, documents: list[list[list[str]]]) -> dict[Gram, int]:
        """Returns for each n-gram the number of documents that have it."""
        return corpus_counts(documents, MAX_ORDER, once=True)

    def prepare(self, references: tuple[str, ...]) -> Vectors:
        """Returns the weights of the references of a row."""
        import numpy as np

        tokens = [self.tokens(reference) for reference in references]
        table = GramTable(tokens, MAX_ORDER)
        rows = np.arange(len(table.counts))
        squares = np.fromiter(map(self._idf_squared.get, table.grams(rows), repeat(self._most_squared)), np.float64)
        weights = table.counts * (table.counts * squares[:, None])
        norms = np.sqrt([weights[part].sum(axis=0) for part in table.split(rows)])
        return Vectors(table, squares, norms, np.maximum([len(words) - 1 for words in tokens], 0))

    def _norm(self, grams: list[Gram]) -> float:
        squares = (self._idf_squared.get(gram, self._most_squared) * n**2 for gram, n in Counter(grams).items())
        return math.sqrt(sum(squares))

    def score(self, completion: str, prepared: Vectors) -> float:
        """Returns the CIDEr-D of a completion, in [0, 10]."""
        import numpy as np

        tokens = self.tokens(completion)
        rows, counts = prepared.table.shared(tokens)
        of_references = prepared.table.counts[rows]
        products = counts[:, None].clip(max=of_references) * of_references * prepared.squares[rows, None]
        dots = np.array([products[part].sum(axis=0) for part in prepared.table.split(rows)])
        norms = prepared.norms * [[self._norm(ngrams(tokens, n))] for n in range(1, MAX_ORDER + 1)]
        cosines = np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0)
        surplus = max(len(tokens) - 1, 0) - prepared.bigrams
        likeness = cosines.mean(axis=0) * np.exp(-(surplus**2) / (2 * SIGMA**2))
        return min(10 * float(likeness.mean()), 10.0)  # rounding takes a perfect match above
