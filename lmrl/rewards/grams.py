"""N-grams as tuples, as sets with repetitions, and as numbers that are counted by sorting and found by bisection."""

from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from numpy.typing import NDArray

Gram: TypeAlias = tuple[str, ...]
Integers: TypeAlias = "NDArray[Any]"  # of 64 bits, or of Python's where those do not suffice


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


def _runs(values: Integers) -> tuple[Integers, Integers]:
    """Returns where each run of equal values begins, and its length."""
    import numpy as np

    new = np.ones(len(values) + 1, dtype=bool)
    np.not_equal(values[1:], values[:-1], out=new[1:-1])
    bounds = new.nonzero()[0]
    return bounds[:-1], bounds[1:] - bounds[:-1]


class Shared(NamedTuple):
    """The n-grams of a table that a text has too: their rows in the table, ascending, and their counts in the text."""

    rows: Integers
    counts: Integers


class GramTable:
    """
    The n-grams of some texts and their counts in each: a row per n-gram, a column per text.

    The symbols of the texts (tokens, characters) are numbered from 1, and an n-gram is the integer that has them as
    its digits: equal n-grams are equal integers, and shorter ones come before longer ones.

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

        self._symbols: list[Any] = [None, *dict.fromkeys(chain.from_iterable(texts))]
        self._numbers = {symbol: number for number, symbol in enumerate(self._symbols)}
        self._order = order
        self._bits = len(self._symbols).bit_length()  # of a digit; the length itself stands for any other symbol
        text_bits = (len(texts) - 1).bit_length()
        self._type: Any = np.int64 if self._bits * order + text_bits < 64 else object
        lengths = np.array([len(text) for text in texts])
        self.totals = np.maximum(lengths - np.arange(order)[:, None], 0)
        columns = np.repeat(np.arange(len(texts)), lengths)
        room = np.cumsum(lengths)[columns] - np.arange(len(columns))  # symbols from here to the end of the text
        inside = room > np.arange(order)[:, None]
        keys = np.sort((self._codes_of(chain.from_iterable(texts)) << text_bits | columns)[inside])
        first, counts = _runs(keys)
        codes, columns = keys[first] >> text_bits, (keys[first] & (1 << text_bits) - 1).astype(np.int64)
        first, sizes = _runs(codes)
        self._codes = codes[first]
        self._starts = np.searchsorted(self._codes, np.array([1 << self._bits * n for n in range(order)], self._type))
        self.counts = np.zeros((len(first), len(texts)), np.int32)
        self.counts[np.repeat(np.arange(len(first)), sizes), columns] = counts

    def _codes_of(self, symbols: Any) -> Integers:
        """Returns for each order and place the n-gram that begins there, of shape `(order, symbols)`."""
        import numpy as np

        numbers = np.fromiter(map(self._numbers.get, symbols, repeat(len(self._symbols))), self._type)
        codes = np.zeros((self._order, len(numbers)), self._type)
        codes[:1] = numbers
        for n in range(1, min(self._order, len(numbers))):
            codes[n, :-n] = codes[n - 1, :-n] << self._bits | numbers[n:]
        return codes

    def shared(self, text: Sequence[Hashable]) -> Shared:
        """Returns the n-grams that are in the table and in a text."""
        codes = self._codes_of(text).ravel()  # 0 where no n-gram begins
        codes.sort()
        first, counts = _runs(codes)
        if not len(self._codes):
            return Shared(first[:0], counts[:0])
        rows = self._codes[:-1].searchsorted(codes[first])  # the last row for all that are greater
        known = self._codes[rows] == codes[first]
        return Shared(rows[known], counts[known])

    def split(self, rows: Integers) -> list[slice]:
        """Returns for each order which of these rows, ascending, are its n-grams."""
        bounds = [*rows.searchsorted(self._starts).tolist(), len(rows)]
        return list(map(slice, bounds, bounds[1:]))

    def grams(self, rows: Integers) -> list[Gram]:
        """Returns the n-grams of rows, ascending, as tuples of symbols."""
        grams: list[Gram] = []
        mask = (1 << self._bits) - 1
        for n, part in enumerate(self.split(rows)):
            codes = self._codes[rows[part]]
            digits = [(codes >> self._bits * place & mask).tolist() for place in range(n, -1, -1)]
            grams += zip(*[map(self._symbols.__getitem__, column) for column in digits], strict=True)
        return grams


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
    import numpy as np

    tokens = [token for texts in documents for text in texts for token in text]
    numbers = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    symbols = np.fromiter(map(numbers.__getitem__, tokens), np.int64)
    lengths = np.array([len(text) for texts in documents for text in texts], np.int64)
    room = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(tokens))  # tokens from here to the end of the text
    owners = np.repeat(np.arange(len(documents)), [sum(map(len, texts)) for texts in documents])
    places, codes = np.arange(len(tokens)), symbols
    counts: dict[Gram, int] = {}
    for n in range(1, order + 1):
        _, first, grams = np.unique(codes, return_index=True, return_inverse=True)
        found = grams
        if once:
            pairs = np.sort(grams * len(documents) + owners[places])
            found = pairs[_runs(pairs)[0]] // len(documents)
        often = np.bincount(found, minlength=len(first))
        starts = places[first].tolist()
        seen = zip(starts, often.tolist(), strict=True)
        counts |= {tuple(tokens[start : start + n]): count for start, count in seen if count > 1}
        longer = (often[grams] > 1) & (room[places] > n)  # what occurs once is part of nothing that occurs twice
        places, codes = places[longer], grams[longer] * len(numbers) + symbols[places[longer] + n]
    return counts
