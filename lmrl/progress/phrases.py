"""Lengths, repetitions and phrases of texts so far, each found in one pass over the text."""

import bisect
import functools
import re
from collections.abc import Iterable

from .prefixes import WORD, Prefixes
from .units import units_so_far

_WORD_CHARACTER = re.compile(r"\w")


def lengths_so_far(prefixes: Prefixes, unit: str) -> list[int]:
    """Returns the number of words (`unit="words"`) or characters of the text so far before each token."""
    if unit != "words":
        return list(prefixes.ends)
    starts = [match.start() for match in WORD.finditer(prefixes.text)]
    return [bisect.bisect_left(starts, end) for end in prefixes.ends]


def distinct_so_far(prefixes: Prefixes, n: int) -> list[float]:
    """Returns the share of distinct n-grams of words among those of the text so far, 1 if it has none."""
    text = units_so_far(prefixes, str.split)
    known: dict[tuple[str, ...], int] = {}  # for each n-gram the number of words up to its first end
    distinct = [0] * (len(text.units) + 1)  # n-grams among the first 0, 1, ... words
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


@functools.lru_cache(maxsize=8192)
def _pattern(phrase: str, whole_words: bool, ignore_case: bool, form: str) -> re.Pattern[str]:
    words = r"\s+".join(map(re.escape, phrase.split()))
    before = r"(?<!\w)" if whole_words else ""  # \b would want a word character at the start of "£20-25"
    return re.compile(before + form.format(words), re.IGNORECASE if ignore_case else re.NOFLAG)


def phrase_pattern(phrase: str, whole_words: bool = True, ignore_case: bool = True) -> re.Pattern[str]:
    """Returns the pattern of a phrase, whose words may be separated by any white space."""
    return _pattern(phrase, whole_words, ignore_case, r"{}(?!\w)" if whole_words else "{}")


def found_so_far(
    prefixes: Prefixes, phrases: Iterable[str], whole_words: bool = True, ignore_case: bool = True
) -> list[bool]:
    """
    Returns whether the text so far has one of some phrases, before each token.

    A phrase at the end of the text so far counts, but with `whole_words` no longer once its last word goes on.
    """
    text = prefixes.text
    # Phrases as groups, whatever follows them, in a lookahead, which also finds occurrences that overlap.
    patterns = [_pattern(phrase, whole_words, ignore_case, "(?=({}))") for phrase in phrases]
    ends = {match.end(1) for pattern in patterns for match in pattern.finditer(text)}
    lasting = [end for end in ends if not whole_words or (end < len(text) and not _WORD_CHARACTER.match(text, end))]
    first = min(lasting, default=len(text) + 1)
    return [first < end or end in ends for end in prefixes.ends]
