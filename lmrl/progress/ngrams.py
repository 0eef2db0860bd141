"""N-grams of a batch of complete texts, counted at once: all of them, and those that references have too."""

from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import TypeAlias

from lmrl.libraries import Integers, np

Symbols: TypeAlias = Sequence[str]
"""The tokens or the characters of a text."""

_MOST_SYMBOLS = 2**13  # counted at a time: more take memory and save no time


def numbered(texts: Sequence[Sequence[str]]) -> Integers:
    """Returns for each unit of the joined texts a number that stands for it, from 0 on."""
    numbers = {symbol: number for number, symbol in enumerate(dict.fromkeys(chain.from_iterable(texts)))}
    return np.fromiter(map(numbers.__getitem__, chain.from_iterable(texts)), np.int64)


def ngram_codes(texts: Sequence[Sequence[str]], order: int, most_bits: int) -> Integers:
    """
    Returns integers that stand for the n-grams of the joined texts, one for each length up to `order` and each place
    where an n-gram begins, of shape `(order, places)`.

    The digits of an integer are the numbers of the units. Where they would take more than `most_bits`, the shorter
    n-grams are numbered consecutively first: there are no more of them than places.
    """
    symbols = numbered(texts)
    codes = np.zeros((order, len(symbols)), np.int64)
    codes[0] = symbols
    bits = (int(symbols.max(initial=0)) + 1).bit_length()
    taken = bits
    for n in range(1, order):
        shorter = codes[n - 1]
        if taken + bits > most_bits:
            shorter = np.unique(shorter, return_inverse=True)[1]
            taken = len(symbols).bit_length()
        codes[n, :-n] = shorter[:-n] << bits | symbols[n:]
        taken += bits
    return codes


def ngram_totals(texts: Sequence[Symbols], order: int) -> Integers:
    """Returns how many n-grams of each length from 1 to `order` each text has, of shape `(texts, order)`."""
    lengths = np.array([len(text) for text in texts], np.int64)
    return (lengths[:, None] - np.arange(order)).clip(min=0)


def ngram_totals_of_references(references: Sequence[Sequence[Symbols]], order: int) -> Integers:
    """Returns [`ngram_totals`] of the references of each text, of shape `(texts, references, order)`, 0 for none."""
    lengths = np.array([*zip_longest(*[map(len, of_text) for of_text in references], fillvalue=0)], np.int64)
    return (lengths.T[..., None] - np.arange(order)).clip(min=0)


def shared_ngrams(
    texts: Sequence[Symbols], references: Sequence[Sequence[Symbols]], order: int, together: bool = False
) -> Integers:
    """
    Returns how many n-grams each text shares with each of its references, each as often as both have it.

    Args:
        texts, references:
            Symbols of each text, which may have none, and of its references, one at least. Texts share the work if the
            sequence of their references is the same object.
        order (`int`):
            Length of the longest n-grams, at least 1.
        together (`bool`, *optional*, defaults to `False`):
            Whether to take a text's references for one that has each n-gram as often as the one with most of it.

    Returns:
        `numpy.ndarray` of shape `(texts, references, order)`, 0 where a text has fewer references than others; with
        `together` of shape `(texts, 1, order)`.
    """
    width = 1 if together else max(map(len, references), default=1)
    shared = np.zeros((len(texts), width, order), np.int64)
    start = 0
    symbols = 0
    for stop, (text, of_text) in enumerate(zip(texts, references, strict=True), start=1):
        symbols += len(text) + sum(map(len, of_text)) + 1
        if symbols > _MOST_SYMBOLS or stop == len(texts):
            counted = _shared(texts[start:stop], references[start:stop], order, together)
            shared[start:stop, : counted.shape[1]] = counted
            start = stop
            symbols = 0
    return shared


def _shared(texts: Sequence[Symbols], references: Sequence[Sequence[Symbols]], order: int, together: bool) -> Integers:
    """Returns [`shared_ngrams`] of texts that are counted in one table: a row per text of a group."""
    # 1. A group is a set of references with the texts that have it. The first rows of the table are the references.
    width = max(map(len, references))
    groups: dict[int, int] = {}
    rows: list[int] = []  # of each group so far
    places: list[tuple[int, int]] = []  # group and row of each text
    of_symbols: list[tuple[int, int, Symbols]] = []  # group and row of all symbols
    for text, of_text in zip(texts, references, strict=True):
        group = groups.setdefault(id(of_text), len(groups))
        if group == len(rows):
            rows.append(width)
            of_symbols += [(group, row, reference) for row, reference in enumerate(of_text)]
        places.append((group, rows[group]))
        of_symbols.append((group, rows[group], text))
        rows[group] += 1

    # 2. The key of an n-gram is its group, its length, itself and its row. Sorted, those of one column are neighbours.
    lengths = np.array([len(text) for _, _, text in of_symbols])
    owners, row_of_symbol = np.repeat([place[:2] for place in of_symbols], lengths, axis=0).T
    row_bits = max(rows).bit_length()
    code_bits = 63 - row_bits - (len(groups) * order).bit_length()
    codes = ngram_codes([text for _, _, text in of_symbols], order, code_bits)
    lost = np.arange(order)[:, None]  # length, from 0 on
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(owners))  # symbols from here to the end of the text
    keys = (((owners * order + lost) << code_bits | codes) << row_bits | row_of_symbol)[left > lost]
    keys.sort()
    grams = keys >> row_bits
    new = np.diff(grams, prepend=-1) != 0
    grams = grams[new]
    cells = (keys & (1 << row_bits) - 1) * len(grams) + np.cumsum(new) - 1
    table = np.bincount(cells, minlength=max(rows) * len(grams)).reshape(max(rows), -1)

    # 3. The smaller count of each n-gram, summed over those of a group and a length.
    of_references = table[:width].max(axis=0, keepdims=True) if together else table[:width]
    common = of_references.any(axis=0) & table[width:].any(axis=0)
    starts = grams[common].searchsorted(np.arange(len(groups) * order + 1) << code_bits)
    of_texts = table[width:, common]
    sums = np.zeros((len(of_texts), of_texts.shape[1] + 1), np.int64)
    shared = np.zeros((len(texts), len(of_references), order), np.int64)
    group_of_text, row_of_text = np.array(places).T
    for reference, counts in enumerate(of_references[:, common]):
        np.cumsum(np.minimum(of_texts, counts), axis=1, out=sums[:, 1:])
        of_groups = (sums[:, starts[1:]] - sums[:, starts[:-1]]).reshape(-1, len(groups), order)
        shared[:, reference] = of_groups[row_of_text - width, group_of_text]
    return shared
