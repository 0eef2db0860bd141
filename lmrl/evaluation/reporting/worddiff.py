"""The difference between two texts, word by word."""

import re
from itertools import groupby

from lmrl.libraries import rapidfuzz

Piece = tuple[str, bool]


def word_diff(before: str, after: str) -> tuple[list[Piece], list[Piece]]:
    """
    Returns both texts as pieces, each with a flag: whether its words are missing in the other text at this place.

    The joined pieces of a text are the text. Words are separated by white space, and as many as possible are matched:
    a longest common subsequence. `difflib` would become very slow for texts that repeat their words.
    """
    old = _words(before)
    new = _words(after)
    plain = [[word.strip() for word in words] for words in (old, new)]
    blocks = rapidfuzz.distance.LCSseq.opcodes(*plain).as_matching_blocks()
    kept_old = {place for block in blocks for place in range(block.a, block.a + block.size)}
    kept_new = {place for block in blocks for place in range(block.b, block.b + block.size)}
    return _pieces(old, kept_old), _pieces(new, kept_new)


def _words(text: str) -> list[str]:
    """Returns the words, each with the white space before it, and trailing white space as one more."""
    return re.findall(r"\s*\S+|\s+$", text)


def _pieces(words: list[str], kept: set[int]) -> list[Piece]:
    pieces: list[Piece] = []
    for same, run in groupby(enumerate(words), lambda pair: pair[0] in kept):
        text = "".join(word for _, word in run)
        marked = text.lstrip()
        space = text[: len(text) - len(marked)]
        if same or not marked:
            pieces.append((text, False))
        else:
            pieces += [(space, False)] * bool(space) + [(marked, True)]
    return pieces
