"""CIDEr-D, equal to that of the COCO caption evaluation."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from itertools import repeat
from operator import mul
from pathlib import Path
from typing import Any, NamedTuple

from .corpus import CorpusReward, Gram, ngrams_up_to
from .overlap import ngrams

MAX_ORDER = 4
SIGMA = 6.0


class Vectors(NamedTuple):
    """A text: for each order the counts of its n-grams and the norm of their tf-idf weights; its number of bigrams."""

    counts: list[Counter[Gram]]
    norms: list[float]
    bigrams: int


class CIDErD(CorpusReward[list[Vectors]]):
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
        corpus (`str`, `Path` or `list[list[str]]`):
            The training corpus: a .json or .jsonl file with rows, or the references of each document.
        corpus_column (`str`, *optional*):
            Column with the references in a corpus file. Defaults to `column`.
        tokenize (`str`, *optional*, defaults to `"13a"`):
            Name of a sacrebleu tokenizer. The COCO evaluation has that of the Penn Treebank, and drops punctuation.
        lowercase (`bool`, *optional*, defaults to `True`):
            Whether to ignore case.
        column (`str`, *optional*, defaults to `"references"`):
            Dataset column with a string or a list of strings per row.
        name (`str`, *optional*, defaults to `"cider"`):
            Name under which trainers log it.
        cache_size (`int`, *optional*, defaults to `1024`):
            Rows whose prepared references are kept.

    Raises:
        ValueError: if the corpus cannot be read or has less than two documents (every idf would be 0), or if sacrebleu
            knows no such tokenizer.
    """

    def __init__(
        self,
        corpus: str | Path | Iterable[Any],
        corpus_column: str | None = None,
        tokenize: str = "13a",
        lowercase: bool = True,
        column: str = "references",
        name: str = "cider",
        cache_size: int = 1024,
    ):
        super().__init__(name, corpus, corpus_column, tokenize, lowercase, column, cache_size)
        if self.documents < 2:
            raise ValueError(
                f"CIDEr-D needs a corpus of at least 2 documents, got {self.documents}: an n-gram weighs by how few "
                "of them have it. Pass the references of the training split, one list per row."
            )
        self.range = (0.0, 10.0)
        self._most_squared = math.log(self.documents) ** 2
        self._idf_squared = {gram: math.log(self.documents / count) ** 2 for gram, count in self.counts.items()}

    @property
    def signature(self) -> str:
        """How texts are tokenised, and the corpus."""
        return f"cider-d|{self.corpus_signature()}"

    def count(self, documents: list[list[list[str]]]) -> Counter[Gram]:
        """Returns for each n-gram the number of documents that have it."""
        counts: Counter[Gram] = Counter()
        for references in documents:
            counts.update({gram for tokens in references for gram in ngrams_up_to(tokens, MAX_ORDER)})
        return counts

    def _squares(self, grams: Collection[Gram]) -> Iterator[float]:
        """Returns the squared idf of each n-gram: all that a score needs of it."""
        return map(self._idf_squared.get, grams, repeat(self._most_squared))

    def _norm(self, counts: Counter[Gram]) -> float:
        repeated = {gram: count**2 - 1 for gram, count in counts.items() if count > 1}
        return math.sqrt(sum(self._squares(counts)) + sum(map(mul, repeated.values(), self._squares(repeated))))

    def _vectors(self, text: str) -> Vectors:
        tokens = self.tokens(text)
        counts = [Counter(ngrams(tokens, order)) for order in range(1, MAX_ORDER + 1)]
        return Vectors(counts, list(map(self._norm, counts)), max(len(tokens) - 1, 0))

    def _similarity(self, text: Vectors, reference: Vectors) -> float:
        """Returns the mean over orders of the clipped cosine, times the penalty of a difference in length: 0 to 1."""
        total = 0.0
        for ours, theirs, norm, other in zip(text.counts, reference.counts, text.norms, reference.norms, strict=True):
            if norm and other:
                shared = list(ours.keys() & theirs.keys())
                products = [min(ours[gram], theirs[gram]) * theirs[gram] for gram in shared]
                total += sum(map(mul, products, self._squares(shared))) / (norm * other)
        return total / MAX_ORDER * math.exp(-((text.bigrams - reference.bigrams) ** 2) / (2 * SIGMA**2))

    def prepare(self, references: tuple[str, ...]) -> list[Vectors]:
        """Returns the weights of each reference of a row."""
        return [self._vectors(reference) for reference in references]

    def score(self, completion: str, prepared: list[Vectors]) -> float:
        """Returns the CIDEr-D of a completion, in [0, 10]."""
        vectors = self._vectors(completion)
        mean = sum(self._similarity(vectors, reference) for reference in prepared) / len(prepared)
        return min(10 * mean, 10.0)  # rounding takes a perfect match above
