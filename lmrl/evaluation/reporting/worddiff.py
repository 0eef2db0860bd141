"""The difference of two texts in words."""

import re
from difflib import SequenceMatcher
from itertools import groupby

Piece = tuple[str, bool]


def word_diff(before: str, after: str) -> tuple[list[Piece], list[Piece]]:
    """
    Returns both texts in pieces, each with whether its words are missing in the other text at this place.

    The pieces of a text, joined, are the text. Words are separated by spaces; the longest common runs are matched
    first, as `difflib` does.
    """
    old = _words(before)
    new = _words(after)
    matcher = SequenceMatcher(None, [word.strip() for word in old], [word.strip() for word in new], autojunk=False)
    kept_old = [False] * len(old)
    kept_new = [False] * len(new)
    for block in matcher.get_matching_blocks():
        for offset in range(block.size):
            kept_old[block.a + offset] = kept_new[block.b + offset] = True
    return _pieces(old, kept_old), _pieces(new, kept_new)


def _words(text: str) -> list[str]:
    """Returns the words, each with the spaces before it, and trailing spaces as one more."""
    return re.findall(r"\s*\S+|\s+$", text)


def _pieces(words: list[str], kept: list[bool]) -> list[Piece]:
    pieces: list[Piece] = []
    for same, run in groupby(zip(words, kept, strict=True), lambda pair: pair[1]):
        text = "".join(word for word, _ in run)
        marked = text.lstrip()
        space = text[: len(text) - len(marked)]
        if same or not marked:
            pieces.append((text, False))
        else:
            pieces += [(space, False)] * bool(space) + [(marked, True)]
    return pieces
