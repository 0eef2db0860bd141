"""Base class of the rewards whose n-grams weigh by how common they are in a training corpus."""

import hashlib
import json
import sys
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import Any

from .grams import Gram, SacrebleuTokens
from .references import Prepared, ReferenceReward


def read_corpus(corpus: str | Path | Iterable[Any], column: str) -> list[tuple[str, ...]]:
    """
    Returns the references of each document of a corpus.

    Args:
        corpus (`str`, `Path` or iterable):
            A .jsonl file with a row per line, a .json file with a list of rows, or the documents themselves: for each
            a string or a list of strings.
        column (`str`):
            Column of the rows with a string or a list of strings.

    Raises:
        ValueError: If the file is not of that form, or a document has no references; rows are counted from 0.
    """
    documents = list(_read_file(Path(corpus).expanduser(), column) if isinstance(corpus, (str, Path)) else corpus)
    for row, value in enumerate(documents):
        document = (value,) if isinstance(value, str) else value
        if not isinstance(document, (list, tuple)) or not document or not all(isinstance(t, str) for t in document):
            raise ValueError(
                f"A document of `corpus` must be a string or a non-empty list of strings, got {value!r} in row {row}. "
                "Correct or drop the row."
            )
        documents[row] = tuple(document)
    return documents


def _read_file(path: Path, column: str) -> list[Any]:
    if path.suffix not in (".json", ".jsonl") or not path.is_file():
        raise ValueError(f"`corpus` must be a .json or .jsonl file, or a list of lists of strings, got {path}.")
    text = path.read_text(encoding="utf-8")
    try:
        # Not splitlines: a string may hold a line separator of Unicode.
        rows = json.loads(text) if path.suffix == ".json" else [json.loads(row) for row in text.split("\n") if row]
    except json.JSONDecodeError as error:
        raise ValueError(f"`corpus` must be {path.suffix[1:].upper()}, got {path} ({error}).") from error
    for row, values in enumerate(rows):
        if not isinstance(values, Mapping) or column not in values:
            has = sorted(values) if isinstance(values, Mapping) else repr(values)
            raise ValueError(
                f"Row {row} of {path} must have the column {column!r}, got {has}. Name it as `corpus_column`."
            )
    return [values[column] for values in rows]


@dataclass(eq=False, repr=False)
class CorpusReward(ReferenceReward[Prepared]):
    """
    Base of the rewards whose n-grams weigh by their counts in a training corpus.

    The corpus is read and counted once, when the reward is made; a pickle has the counts. They never come from the
    batch: a score would depend on the other rows in it.

    Args:
        corpus (`str`, `Path` or `list[list[str]]`):
            The training corpus: a .json or .jsonl file with rows, or the references of each document.
        corpus_column (`str`, *optional*):
            Column with the references in a corpus file. Defaults to `column`.
        tokenize (`str`, *optional*, defaults to `"13a"`):
            Name of a sacrebleu tokenizer.
        lowercase (`bool`, *optional*, defaults to `True`):
            Whether to ignore case.
        name, column, cache_size:
            Those of [`ReferenceReward`].

    Attributes:
        documents (`int`): the number of documents of the corpus.
        counts (`dict[tuple[str, ...], int]`): result of `count`.

    Raises:
        ValueError: If the corpus cannot be read, or if sacrebleu has no such tokenizer.
    """

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
        self.counts = self.count(documents)

    @abstractmethod
    def count(self, documents: list[list[list[str]]]) -> dict[Gram, int]:
        """
        Returns the counts of n-grams in a corpus of documents of tokenised references, but for those of 1: an n-gram
        that was never seen counts as if seen once.
        """

    def tokens(self, text: str) -> list[str]:
        """Returns the tokens of a text, as BLEU counts them."""
        # Interned, a word is one object wherever it occurs, and n-grams are found sooner.
        return list(map(sys.intern, self._tokens(text)))

    def corpus_signature(self) -> str:
        """Returns the tokenizer and the corpus, by the start of its SHA-256, as part of a signature."""
        import sacrebleu

        case = "lc" if self.lowercase else "mixed"
        corpus = f"docs:{self.documents}|corpus:{self._fingerprint}"
        return f"nrefs:var|case:{case}|tok:{self.tokenize}|{corpus}|sacrebleu:{sacrebleu.__version__}"
