"""NIST and CIDEr-D, which weight n-grams by how rare they are in a training corpus."""

import hashlib
import json
import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

from lmrl.libraries import Array, np, sacrebleu
from lmrl.utils import parse_json

from .grams import Gram, SacrebleuTokens, all_ngrams, ngrams, occurrences
from .references import Prepared, ReferenceReward, SummedReward, divide, texts_of_rows


def read_corpus(corpus: str | Path | Iterable[Any], column: str) -> list[tuple[str, ...]]:
    """
    Returns the references of each document of a corpus, given in any form that [`CorpusReward`] takes.

    Raises:
        ValueError: If the file is in no such form, or a document has no references; the message counts rows from 0.
    """
    documents = _read_file(Path(corpus), column) if isinstance(corpus, (str, Path)) else corpus
    return texts_of_rows(documents, "A document of `corpus` must be a string or a non-empty list of strings")


def _read_file(path: Path, column: str) -> list[Any]:
    path = path.expanduser()
    if path.suffix not in (".json", ".jsonl") or not path.is_file():
        raise ValueError(f"`corpus` must be a .json or .jsonl file, or a list of lists of strings, got {path}.")
    try:
        text = path.read_text(encoding="utf-8-sig")
        # Not splitlines: a JSON string may contain a Unicode line separator, where it would split the row.
        lines = filter(str.strip, text.split("\n"))
        rows = parse_json(text) if path.suffix == ".json" else list(map(parse_json, lines))
        if not isinstance(rows, list):
            raise ValueError("no list of rows")
    except ValueError as error:
        raise ValueError(f"`corpus` must be {path.suffix[1:].upper()}, got {path} ({error}).") from error
    for row, values in enumerate(rows):
        if not isinstance(values, Mapping) or column not in values:
            has = sorted(values) if isinstance(values, Mapping) else repr(values)
            raise ValueError(
                f"Row {row} of {path} must have the column {column!r}, got {has}. Name it as `corpus_column`."
            )
    return [values[column] for values in rows]


def corpus_counts(documents: list[list[list[str]]], order: int, once: bool) -> dict[Gram, int]:
    """
    Returns how often each n-gram of 1 to `order` tokens occurs in the texts of all documents or, with `once`, in how
    many documents it occurs. N-grams with a count of 1 are left out.
    """
    counts: Counter[Gram] = Counter()
    for texts in documents:
        grams = [gram for tokens in texts for gram in all_ngrams(tokens, order)]
        counts.update(set(grams) if once else grams)
    return {gram: count for gram, count in counts.items() if count > 1}


@dataclass(eq=False, repr=False)
class CorpusReward(ReferenceReward[Prepared]):
    """
    Base of the rewards that weight n-grams by their counts in a training corpus.

    The corpus is read and counted once, when the reward is made; a pickle contains the counts. They never come from
    the batch being scored: the score of a row would depend on the other rows.

    Args:
        corpus (`str`, `Path` or iterable):
            The training corpus: a .jsonl file with a row per line, a .json file with a list of rows, or the documents
            themselves: for each a string or a list of strings.
        corpus_column (`str`, *optional*):
            Column with the references in a corpus file. Defaults to `column`.
        tokenize (`str`, *optional*, defaults to `"13a"`):
            Name of a sacrebleu tokenizer.
        lowercase (`bool`, *optional*, defaults to `True`):
            Whether to ignore case.

    Attributes:
        documents, words (`int`): their numbers in the corpus.
        counts (`dict[tuple[str, ...], int]`): occurrences, or documents, of each n-gram that has at least two;
            all others, seen once or never, count as 1.
    """

    order: ClassVar[int]  # length of the longest n-grams
    once: ClassVar[bool]  # whether an n-gram counts once per document

    corpus: InitVar[str | Path | Iterable[Any]]
    corpus_column: InitVar[str | None] = None
    tokenize: str = "13a"
    lowercase: bool = True

    def __post_init__(self, corpus: str | Path | Iterable[Any], corpus_column: str | None) -> None:
        super().__post_init__()
        self._tokens = SacrebleuTokens(self.tokenize, self.lowercase)
        rows = read_corpus(corpus, corpus_column or self.column)
        documents = [[self.tokens(reference) for reference in references] for references in rows]
        self.documents = len(documents)
        self._fingerprint = hashlib.sha256(json.dumps(documents).encode()).hexdigest()[:8]
        self.words = sum(len(tokens) for references in documents for tokens in references)
        self.counts = corpus_counts(documents, self.order, self.once)

    def tokens(self, text: str) -> list[str]:
        """Returns the tokens of a text, as BLEU counts them."""
        # Interned, equal words are one object, which makes looking up n-grams faster.
        return list(map(sys.intern, self._tokens(text)))

    progress_units = tokens

    def corpus_signature(self) -> str:
        """Returns the tokenizer and the corpus, by the start of its SHA-256, as part of a signature."""
        case = "lc" if self.lowercase else "mixed"
        corpus = f"docs:{self.documents}|corpus:{self._fingerprint}"
        return f"nrefs:var|case:{case}|tok:{self.tokenize}|{corpus}|sacrebleu:{sacrebleu.__version__}"


NIST_ORDER = 5
_BETA = math.log(0.5) / math.log(1.5) ** 2


class NistReferences(NamedTuple):
    """The references of a row: their n-grams, each with its largest count in any of them, and their mean length."""

    occurrences: set[Any]
    length: float


def nist_score(sums: Array) -> Array:
    """
    Returns the NIST, at least 0, of a completion from its statistics, or of a corpus from the sum over its rows.

    In the notation of [`NIST`], `sums` `(..., 11)` has `info_1 ... info_5, total_1 ... total_5, r`; c is `total_1`. An
    order without n-grams adds 0.
    """
    information, totals, reference = np.split(sums, [NIST_ORDER, 2 * NIST_ORDER], axis=-1)
    brevity = np.minimum(divide(totals[..., 0], reference[..., 0], 0), 1)
    with np.errstate(divide="ignore"):
        penalty = np.exp(_BETA * np.log(brevity) ** 2)  # 0 where brevity is
    return cast(Array, penalty * divide(information, totals, 0).sum(axis=-1))


@dataclass(eq=False, repr=False)
class NIST(CorpusReward[NistReferences], SummedReward[NistReferences]):
    """
    Returns the NIST-5 of each completion against all its references, at least 0.

    `exp(beta * log(min(1, c / r))^2) * sum over n = 1..5 of info_n / total_n`. `total_n` is the number of n-grams in
    the completion; `info_n` sums the information of those that occur in a reference, each counted at most as often as
    in the reference that has it most often. An n-gram has the information `log2(#(w_1 ... w_n-1) / #(w_1 ... w_n))`,
    where # counts occurrences in a training corpus, that of the empty sequence is the number of words, and a sequence
    never seen counts as 1. c is the length of the completion, r the mean length of its references, and beta such that
    the penalty is 1/2 at c / r = 2/3. From "Automatic Evaluation of Machine Translation Quality Using N-gram
    Co-Occurrence Statistics" (Doddington, 2002), with the penalty of NIST's mteval-v13a.

    The score has no fixed maximum: rare words have more information in a larger corpus. `range` ends at the sum over n
    of the largest information that any n-gram can have, far above what texts reach.

    The NIST of a corpus is not a mean over rows, but [`nist_score`] of the summed [`NIST.statistics`]. With the
    references of that corpus as `corpus`, it is mteval's. (nltk's differs where a row has several references: it takes
    for each order the one with the best precision, and its length as r.)

    Args:
        corpus, corpus_column, tokenize, lowercase:
            Those of [`CorpusReward`].

    Raises:
        ValueError: If the corpus cannot be read or has no words.

    Example:

    ```python
    >>> nist = NIST(corpus=[["a b a c"]])
    >>> nist(completions=["b"], references=["b"])  # log2(4 words / 1 b)
    [2.0]
    ```
    """

    order = NIST_ORDER
    once = False

    name: str = field(default="nist", kw_only=True)

    def __post_init__(self, corpus: str | Path | Iterable[Any], corpus_column: str | None) -> None:
        super().__post_init__(corpus, corpus_column)
        if self.words < 2:
            raise ValueError(
                f"`corpus` must have at least 2 words, got {self.words}. NIST weighs n-grams by their counts."
            )
        self.counts = {(): self.words} | self.counts  # every word follows the empty n-gram
        most = [0] * NIST_ORDER
        for gram, count in self.counts.items():
            if len(gram) < NIST_ORDER:
                most[len(gram)] = max(most[len(gram)], count)
        self.range = (0.0, sum(math.log2(count) for count in most if count))
        self._signature = f"nist|n:{NIST_ORDER}|{self.corpus_signature()}"

    def prepare(self, references: tuple[str, ...]) -> NistReferences:
        """Returns the n-grams and the mean length of the references of a row."""
        tokens = [self.tokens(reference) for reference in references]
        most: set[Any] = set().union(*(occurrences(all_ngrams(words, NIST_ORDER)) for words in tokens))
        return NistReferences(most, sum(map(len, tokens)) / len(tokens))

    def batch_statistics(self, completions: Sequence[str], prepared: Sequence[NistReferences]) -> list[list[float]]:
        """Returns each text's information and number of n-grams by order, and the references' mean length."""
        return [self._row_statistics(text, row) for text, row in zip(completions, prepared, strict=True)]

    def _row_statistics(self, completion: str, prepared: NistReferences) -> list[float]:
        tokens = self.tokens(completion)
        known: list[list[float]] = [[] for _ in range(NIST_ORDER)]
        member: Any
        for member in occurrences(all_ngrams(tokens, NIST_ORDER)) & prepared.occurrences:
            gram = member if isinstance(member[0], str) else member[0]
            ratio = self.counts.get(gram[:-1], 1) / self.counts.get(gram, 1)
            known[len(gram) - 1].append(math.log2(ratio))
        information = map(math.fsum, known)  # fsum is exact: the order of a set differs between processes
        totals = [float(max(len(tokens) - lost, 0)) for lost in range(NIST_ORDER)]
        return [*information, *totals, prepared.length]

    def from_statistics(self, sums: Array) -> Array:
        """Returns the NIST of each row of statistics."""
        return nist_score(sums)


CIDER_ORDER = 4
SIGMA = 6.0


class Vector(NamedTuple):
    """A text: for each order, the counts of its n-grams and the norm of counts times idf; its number of bigrams."""

    counts: list[Counter[Gram]]
    norms: list[float]
    bigrams: int


@dataclass(eq=False, repr=False)
class CIDErD(CorpusReward[list[Vector]]):
    """
    Returns the CIDEr-D of each completion, in [0, 10], mean over its references: the COCO caption evaluation's.

    `10 / 4 * sum over n = 1..4 of exp(-(l - l_r)^2 / (2 * 6^2)) * (min(g, g_r) . g_r) / (|g| |g_r|)`, where g and g_r
    hold, for each n-gram of completion and reference, its count times its idf `log(N / max(1, df))`: df of the N
    documents of a training corpus contain the n-gram, a document being the references of one row. The lengths `l` and
    `l_r` are numbers of bigrams. From "CIDEr: Consensus-based Image Description Evaluation" (Vedantam et al., 2015,
    https://arxiv.org/abs/1411.5726), as implemented by its authors in the COCO caption evaluation, except that there
    the documents are the references passed in.

    An order for which a text has no n-gram with a weight above 0 counts as 0: a completion of two words that equals
    its reference has at most 5, not 10. The CIDEr-D of a corpus is the mean over its rows.

    Args:
        corpus, corpus_column, tokenize, lowercase:
            Those of [`CorpusReward`].

    Raises:
        ValueError: If the corpus cannot be read or has less than two documents (every idf would be 0).
    """

    order = CIDER_ORDER
    once = True

    name: str = field(default="cider", kw_only=True)

    def __post_init__(self, corpus: str | Path | Iterable[Any], corpus_column: str | None) -> None:
        super().__post_init__(corpus, corpus_column)
        if self.documents < 2:
            raise ValueError(
                f"`corpus` must have at least 2 documents, got {self.documents}. CIDEr-D weighs n-grams by how few "
                "have them: pass the references of the training split, one list per row."
            )
        self.range = (0.0, 10.0)
        self._most = math.log(self.documents) ** 2  # squared idf of an n-gram in at most one document
        self._weights = {gram: math.log(self.documents / count) ** 2 for gram, count in self.counts.items()}
        self._signature = f"cider-d|{self.corpus_signature()}"

    def units(self, text: str) -> Vector:
        """Returns the n-grams of a text and their norms."""
        tokens = self.tokens(text)
        counts = [Counter(ngrams(tokens, n)) for n in range(1, CIDER_ORDER + 1)]
        norms = []
        for of_order in counts:
            squares = [count**2 * self._weights.get(gram, self._most) for gram, count in of_order.items()]
            norms.append(math.sqrt(sum(squares)))
        return Vector(counts, norms, max(len(tokens) - 1, 0))

    def score(self, completion: str, prepared: list[Vector]) -> float:
        """Returns the CIDEr-D of a completion, in [0, 10]."""
        text = self.units(completion)
        mean = sum(self._likeness(text, reference) for reference in prepared) / len(prepared)
        return min(10 * mean, 10.0)  # rounding takes a perfect match above

    def _likeness(self, text: Vector, reference: Vector) -> float:
        cosines = 0.0
        for n, other in enumerate(reference.counts):
            dot = 0.0
            for gram, count in text.counts[n].items():
                if gram in other:
                    dot += min(count, other[gram]) * other[gram] * self._weights.get(gram, self._most)
            norms = text.norms[n] * reference.norms[n]
            cosines += dot / norms if norms else 0.0
        surplus = text.bigrams - reference.bigrams
        return cosines / CIDER_ORDER * math.exp(-(surplus**2) / (2 * SIGMA**2))
