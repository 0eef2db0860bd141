"""Texts so far: where in a completion each of its tokens begins."""

import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from lmrl.libraries import rapidfuzz

# For each completion, for each of its tokens, the numbers before that token.
Progress: TypeAlias = list[list[list[float]]]

WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class Prefixes:
    """The texts so far of a completion, before each of its tokens."""

    text: str
    # For each token the number of characters before it: rising, from 0 to at most the length of the text. A character
    # of which only some bytes are there is not counted.
    ends: Sequence[int]

    @functools.cached_property
    def words(self) -> list[str]:
        """Words of the text, which white space separates."""
        return self.text.split()

    @functools.cached_property
    def complete(self) -> list[tuple[int, str]]:
        """For each token, how many words before it are complete (white space follows), and the begun next word."""
        spans = [match.span() for match in WORD.finditer(self.text)]
        spans.append((len(self.text), len(self.text)))
        found = []
        word = 0
        for end in self.ends:
            while spans[word][1] < end:
                word += 1
            found.append((word, self.text[spans[word][0] : end]))
        return found

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[str]:
        return (self.text[:end] for end in self.ends)


def per_completion(values: Sequence[Any], prefixes: Sequence[Prefixes]) -> list[list[Any]]:
    """Returns values of all tokens, one completion after the other, as a list for each completion."""
    rest = iter(values)
    return [list(itertools.islice(rest, len(each))) for each in prefixes]


class PrefixFinder:
    """
    Finds for each token of a completion how many characters of the text stand before it.

    Tokenizers give such offsets for texts that they encode, but not for tokens that were sampled. In nearly every text
    the characters that a token adds depend only on the token before it, so their number is kept for each pair. A text
    for which the numbers do not add up, or with characters made of several tokens, is decoded up to each token.

    Args:
        tokenizer (`transformers.PreTrainedTokenizerBase`):
            Tokenizer that decodes the completions.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._added: dict[tuple[int, ...], int | None] = {}

    def __call__(self, completions: Sequence[list[int]]) -> list[Prefixes]:
        """Returns the texts so far of completions, given their token ids: the texts are those that rewards get."""
        texts = self._tokenizer.batch_decode(completions, skip_special_tokens=True)
        return [Prefixes(text, self._ends(ids, text)) for ids, text in zip(completions, texts, strict=True)]

    def _ends(self, ids: list[int], text: str) -> list[int]:
        pairs = [tuple(ids[max(place - 1, 0) : place + 1]) for place in range(len(ids))]
        added = [number for pair in pairs if (number := self._added_by(pair)) is not None]
        if len(added) < len(ids) or sum(added) != len(text):
            # A character of which some bytes are missing is decoded as U+FFFD, and is not there yet.
            beginnings = [self._decode(ids[:place]).rstrip("\ufffd") for place in range(len(ids))]
            return [common_beginning(text, beginning) for beginning in beginnings]
        return list(itertools.accumulate(added[:-1], initial=0)) if ids else []

    def _added_by(self, pair: tuple[int, ...]) -> int | None:
        """Returns how many characters the last token of a pair adds, or a text's first; None of broken characters."""
        if pair not in self._added:
            texts = self._decode(list(pair[:-1])), self._decode(list(pair))
            self._added[pair] = None if "\ufffd" in "".join(texts) else len(texts[1]) - len(texts[0])
        return self._added[pair]

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))


def common_beginning(text: str, other: str) -> int:
    """Returns the number of characters that two texts share at their beginnings."""
    return int(rapidfuzz.distance.Prefix.similarity(text, other))
