"""Tokens of texts, and n-grams as tuples, as sets with repetitions, and counted in a table."""

import re
import string
from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from lmrl.utils import check_in

if TYPE_CHECKING:
    from numpy.typing import NDArray

Gram: TypeAlias = tuple[str, ...]
Integers: TypeAlias = "NDArray[Any]"

_ALONE = re.escape("".join(mark for mark in string.punctuation if mark not in "',-."))
# A token of 13a: anything but the marks above, with a hyphen that follows no digit, a stop or comma in a number.
_TOKEN = re.compile(rf"(?:[^\s{_ALONE}.,-]+|(?<![0-9])-|(?<=[0-9])[.,](?=[0-9]))+|\S")
# Entities, <skipped>, words divided at the end of a line, and neighbouring stops, of which 13a misses every second.
_RARE = ("&", "<", "-\n", "..", ".,", ",.", ",,")


class SacrebleuTokens:
    """
    Splits texts into the tokens of a tokenizer of sacrebleu.

    The four substitutions of its 13a are one expression here, for the texts in which they do not interfere with each
    other: nearly all. The others go through sacrebleu.

    Args:
        tokenize (`str`):
            Name of a sacrebleu tokenizer: `"13a"`, `"intl"`, `"char"`, `"zh"`, `"none"` ...
        lowercase (`bool`):
            Whether to lower-case the text first.

    Raises:
        ValueError: If sacrebleu has no such tokenizer.
    """

    def __init__(self, tokenize: str, lowercase: bool):
        from sacrebleu.metrics.bleu import BLEU

        check_in(BLEU.TOKENIZERS, tokenize=tokenize)
        self.lowercase = lowercase
        self._tokenizer = BLEU(tokenize=tokenize).tokenizer
        self.name: str = self._tokenizer.signature()

    def __call__(self, text: str) -> list[str]:
        """Returns the tokens of a text."""
        if self.lowercase:
            text = text.lower()
        if self.name == "13a" and not any(mark in text for mark in _RARE):
            return _TOKEN.findall(text)
        tokenized: str = self._tokenizer(text.rstrip())  # rstrip: as sacrebleu does before any tokenizer
        return tokenized.split()


def ngrams(tokens: Sequence[str], order: int) -> list[tuple[str, ...]]:
    """Returns the n-grams of `tokens`, in order and with repetitions."""
    return list(zip(*[tokens[start:] for start in range(order)], strict=False))  # the shortest slice ends it


def occurrences(grams: Sequence[Hashable]) -> set[Hashable]:
    """
    Returns a set with one member per occurrence: the gram itself, and `(gram, k)` for its k-th repetition.

    The operations on multisets that overlap metrics need become those of sets, which run in C: the size of an
    intersection is the number of matches clipped to the smaller count, a union has the larger count of each gram.
    """
    members = set(grams)
    if len(members) < len(grams):
        counts = Counter(grams)
        members.update((gram, k) for gram, count in counts.items() if count > 1 for k in range(1, count))
    return members


class Shared(NamedTuple):
    """The n-grams that a table and a text share: their rows in the table, ascending, and their counts in the text."""

    rows: Integers
    counts: Integers


class GramTable:
    """
    The n-grams of some texts and their counts in each: a row per n-gram, a column per text.

    Each distinct symbol of the texts (token, character) becomes one character, in the order of first occurrence, and
    an n-gram a string of n of them: strings are quick to cut, to hash and to sort. Rows are sorted by n, then by
    string.

    Args:
        texts (sequence of sequences of symbols):
            At least one; any may be empty.
        order (`int`):
            Length of the longest n-grams, at least 1.

    Attributes:
        counts (`numpy.ndarray` of shape `(n-grams, texts)`): how often each text has each n-gram.
        totals (`numpy.ndarray` of shape `(order, texts)`): how many n-grams of each length a text has.
    """

    def __init__(self, texts: Sequence[Sequence[Hashable]], order: int):
        import numpy as np

        self._symbols: list[Any] = list(dict.fromkeys(chain.from_iterable(texts)))
        self._letters = {symbol: chr(number) for number, symbol in enumerate(self._symbols)}
        self._order = order
        of_texts = [Counter(self._strings(text)) for text in texts]
        self._grams = sorted(set().union(*of_texts), key=lambda gram: (len(gram), gram))
        self._rows = {gram: row for row, gram in enumerate(self._grams)}
        sizes = Counter(map(len, self._grams))
        self._starts = [0, *accumulate(sizes[n] for n in range(1, order + 1))]
        self.counts = np.zeros((len(self._grams), len(texts)), np.int32)
        for column, counts in enumerate(of_texts):
            self.counts[[self._rows[gram] for gram in counts], column] = list(counts.values())
        self.totals = np.array([[max(len(text) - n, 0) for text in texts] for n in range(order)])

    def _strings(self, text: Sequence[Hashable]) -> list[str]:
        """Returns the n-grams of a text as strings, with repetitions."""
        unknown = chr(len(self._symbols))
        letters = "".join([self._letters.get(symbol, unknown) for symbol in text])
        orders = range(1, self._order + 1)
        return [letters[start : start + n] for n in orders for start in range(len(letters) - n + 1)]

    def shared(self, text: Sequence[Hashable]) -> Shared:
        """Returns the n-grams that are in the table and in a text."""
        import numpy as np

        rows = [row for row in map(self._rows.get, self._strings(text)) if row is not None]
        return Shared(*np.unique(np.array(rows, dtype=np.intp), return_counts=True))

    def split(self, rows: Integers) -> list[slice]:
        """Returns for each order the slice of these rows, ascending, that has its n-grams."""
        bounds = rows.searchsorted(self._starts).tolist()
        return list(map(slice, bounds, bounds[1:]))

    def grams(self, rows: Integers) -> list[Gram]:
        """Returns the n-grams of rows, ascending, as tuples of symbols."""
        return [tuple(self._symbols[ord(letter)] for letter in self._grams[row]) for row in rows.tolist()]


def corpus_counts(documents: list[list[list[str]]], order: int, once: bool) -> dict[Gram, int]:
    """
    Returns how often each n-gram occurs in a corpus, of those that occur more than once.

    Args:
        documents (list of lists of token lists):
            The texts of each document.
        order (`int`):
            Length of the longest n-grams.
        once (`bool`):
            Whether an n-gram counts once for each document that has it.
    """
    counts: Counter[Gram] = Counter()
    for texts in documents:
        grams = [gram for tokens in texts for n in range(1, order + 1) for gram in ngrams(tokens, n)]
        counts.update(set(grams) if once else grams)
    return {gram: count for gram, count in counts.items() if count > 1}
