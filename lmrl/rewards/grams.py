"""Tokens of texts, and n-grams as tuples and as sets with repetitions."""

import functools
import re
import string
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import TypeAlias

from lmrl.libraries import nltk, sacrebleu
from lmrl.progress import Symbols
from lmrl.utils import check_in

Gram: TypeAlias = tuple[str, ...]
_ALONE = re.escape("".join(mark for mark in string.punctuation if mark not in "',-."))
# A token of 13a: a run without these marks (with hyphens not after a digit, . and , between digits), or one mark.
_TOKEN = re.compile(rf"(?:[^\s{_ALONE}.,-]+|(?<![0-9])-|(?<=[0-9])[.,](?=[0-9]))+|\S")
# Left to sacrebleu: entities, <skipped>, words hyphenated across lines, adjacent stops (13a misses every second).
_RARE = ("&", "<", "-\n", "..", ".,", ",.", ",,")


class SacrebleuTokens:
    """
    Splits texts into the tokens of a tokenizer of sacrebleu.

    For speed, the four substitutions of its 13a are a single regular expression here. The few texts in which the
    substitutions would interfere with each other go through sacrebleu.

    Args:
        tokenize (`str`):
            Name of a sacrebleu tokenizer: `"13a"`, `"intl"`, `"char"`, `"zh"`, `"none"` ...
        lowercase (`bool`):
            Whether to lower-case the text first.
    """

    def __init__(self, tokenize: str, lowercase: bool):
        check_in(sacrebleu.BLEU.TOKENIZERS, tokenize=tokenize)
        self.lowercase = lowercase
        self._tokenizer = sacrebleu.BLEU(tokenize=tokenize).tokenizer
        self.name: str = self._tokenizer.signature()

    def __call__(self, text: str) -> list[str]:
        """Returns the tokens of a text."""
        if self.lowercase:
            text = text.lower()
        if self.name == "13a" and not any(mark in text for mark in _RARE):
            return _TOKEN.findall(text)
        tokenized: str = self._tokenizer(text.rstrip())  # rstrip: as sacrebleu does before any tokenizer
        return tokenized.split()


@functools.cache
def stemmer_of(name: str) -> Callable[[str], str]:
    """Returns a stemmer of nltk by its language or `"porter"`; it has a cache, as the same words come up often."""
    check_in(nltk.stem.SnowballStemmer.languages, stemmer=name)
    return functools.lru_cache(maxsize=2**16)(nltk.stem.SnowballStemmer(name).stem)


def ngrams(tokens: Symbols, order: int) -> list[Gram]:
    """Returns the n-grams of `order` tokens, in the order of the text and with repetitions."""
    return list(zip(*[tokens[start:] for start in range(order)], strict=False))  # the shortest slice ends it


def all_ngrams(tokens: Symbols, order: int) -> list[Gram]:
    """Returns the n-grams of 1 to `order` tokens, with repetitions."""
    return [gram for n in range(1, order + 1) for gram in ngrams(tokens, n)]


def occurrences(grams: Sequence[Hashable]) -> set[Hashable]:
    """
    Returns a set with one member per occurrence: the gram itself, and `(gram, k)` for its k-th repetition.

    This turns the multiset operations of overlap metrics into set operations, which run in C: the size of an
    intersection is the number of matches clipped to the smaller count; a union has the larger count of each gram.
    """
    members = set(grams)
    if len(members) < len(grams):
        counts = Counter(grams)
        members.update((gram, k) for gram, count in counts.items() if count > 1 for k in range(1, count))
    return members
