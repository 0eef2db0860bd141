"""Lengths, repetitions and phrases of texts so far, each found in one pass over the text."""

import bisect
import re
from collections.abc import Iterable

from .prefixes import Prefixes
from .units import units_so_far

_WORD = re.compile(r"\S+")
_WORD_CHARACTER = re.compile(r"\w")


def lengths_so_far(prefixes: Prefixes, unit: str) -> list[int]:
    """Returns the number of words (`unit="words"`) or characters of the text so far before each token."""
    if unit != "words":
        return list(prefixes.ends)
    starts = [match.start() for match in _WORD.finditer(prefixes.text)]
    return [bisect.bisect_left(starts, end) for end in prefixes.ends]


def distinct_so_far(prefixes: Prefixes, n: int) -> list[float]:
    """Returns the share of distinct n-grams of words among those of the text so far, 1 if it has none."""
    text = units_so_far(prefixes, str.split)
    known: dict[tuple[str, ...], int] = {}  # for each n-gram the words up to its first end
    distinct = [0] * (len(text.units) + 1)  # of so many words
    for length in range(1, len(text.units) + 1):
        if length >= n:
            known.setdefault(tuple(text.units[length - n : length]), length)
        distinct[length] = len(known)
    shares = []
    for token, place in enumerate(text.places):
        found = distinct[place]
        length = place
        if token in text.endings:  # a word that goes on otherwise
            length = place + 1
            gram = (*text.units[max(length - n, 0) : place], *text.endings[token])
            found += len(gram) == n and known.get(gram, length) > place
        shares.append(found / (length - n + 1) if length >= n else 1.0)
    return shares


def found_so_far(prefixes: Prefixes, phrases: Iterable[re.Pattern[str]], complete_words: bool) -> list[bool]:
    """
    Returns whether the text so far has one of some phrases, before each token.

    A pattern has a lookahead with a group, so that it finds occurrences that overlap, but not what may not follow: a
    phrase at the end of the text so far is there, and with `complete_words` no longer if its last word then goes on.
    """
    text = prefixes.text
    ends = {match.end(1) for phrase in phrases for match in phrase.finditer(text)}
    lasting = [end for end in ends if not complete_words or (end < len(text) and not _WORD_CHARACTER.match(text, end))]
    first = min(lasting, default=len(text) + 1)
    return [first < end or end in ends for end in prefixes.ends]
