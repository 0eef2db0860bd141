"""The units of a text so far: words, tokens or characters, of which the last word may still go on."""

import bisect
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from .prefixes import WORD, Prefixes


@dataclass(frozen=True)
class UnitsSoFar:
    """The units of a completion, and those of its text so far before each token."""

    units: Sequence[str]  # of the complete text
    places: list[int]  # for each token, how many of them, from the first, the text so far has
    # By the number of a token, further units of its text so far, which the complete text does not have there: those of
    # a word that goes on, "cat" before "cats".
    endings: Mapping[int, Sequence[str]] = field(default_factory=dict)

    def lengths(self) -> list[int]:
        """Returns for each token the number of units of the text so far."""
        lengths = list(self.places)
        for token, ending in self.endings.items():
            lengths[token] += len(ending)
        return lengths


def units_so_far(prefixes: Prefixes, units: Callable[[str], Sequence[str]]) -> UnitsSoFar:
    """
    Returns the units of texts so far, where the units of a text are those of its words, one after the other.

    Words are separated by white space. Each is split once, and its beginning once more for every token inside it.
    """
    of_words = [units(word) for word in prefixes.words]
    firsts = [0, *itertools.accumulate(map(len, of_words))]  # place of the first unit of each word
    places = []
    endings = {}
    for token, (word, begun_word) in enumerate(prefixes.complete):
        place = firsts[word]
        if begun_word:
            begun = units(begun_word)
            if of_words[word][: len(begun)] == begun:
                place += len(begun)
            else:
                endings[token] = begun
        places.append(place)
    return UnitsSoFar([*itertools.chain.from_iterable(of_words)], places, endings)


def characters_so_far(prefixes: Prefixes) -> UnitsSoFar:
    """Returns the characters of the texts so far, without white space at both ends."""
    text = prefixes.text
    before = len(text) - len(text.lstrip())
    places = [max(len(text[:end].rstrip()) - before, 0) for end in prefixes.ends]
    return UnitsSoFar(text.strip(), places)


def at_words(
    prefixes: Prefixes, before: str, offsets: Sequence[tuple[int, int]], values: Sequence[float]
) -> list[float]:
    """
    Returns for each token the value at the end of the last complete word of the text so far, 0 before the first.

    In another tokenizer, the tokens of a complete word do not depend on what follows; those of an unfinished word do.

    Args:
        prefixes ([`Prefixes`]), before (`str`):
            The text so far, and what stands before it.
        offsets (`Sequence[tuple[int, int]]`), values (`Sequence[float]`):
            Of each token of the other tokenizer, its characters in both texts together, and its value.
    """
    words = [match.end() for match in WORD.finditer(before + prefixes.text)]
    ends = [last for _, last in offsets]
    of_words = []
    value = 0.0
    token = 0
    for end in words:
        while token < len(ends) and ends[token] <= end:
            value = values[token] if ends[token] else value  # a special token has no characters
            token += 1
        of_words.append(value)
    found = [bisect.bisect_left(words, len(before) + end) for end in prefixes.ends]
    return [of_words[number - 1] if number else 0.0 for number in found]
