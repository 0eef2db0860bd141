"""The edits that the translation edit rate counts: how few words and moves of words turn one text into another."""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

# The limits of Tercom and of sacrebleu: parts of the definition, as the number of edits depends on each.
LONGEST = 10  # words that move together
FARTHEST = 50  # places between a run in one text and the same run in the other
TRIED = 1000  # moves, over the whole search
BEAM = 25  # cells on either side of the diagonal in which sacrebleu looks for an alignment

Move = tuple[int, int, int]  # minus the number of words, the first of them, and where to: of equals, the least is made


def edits(completion: Sequence[str], reference: Sequence[str], least: int, best: float) -> int:
    """
    Returns the edits that turn one text into another: words inserted, deleted or replaced, and runs of words moved.

    From "A Study of Translation Edit Rate with Targeted Human Annotation" (Snover et al., 2006,
    https://aclanthology.org/2006.amta-papers.25): the move that saves most other edits is made, as long as one saves
    any. The number is that of `sacrebleu.metrics.lib_ter.translation_edit_rate`.

    Args:
        completion (`Sequence[str]`):
            Words to edit.
        reference (`Sequence[str]`):
            Words to reach.
        least (`int`):
            Edits that no move saves: how many words one text has more of than the other, the larger of both counts.
        best (`float`):
            Edits from which on the number does not matter: a search that cannot end below it stops early, at a number
            that is not below it either.
    """
    # One character per word: to cut, join and compare strings is quick.
    letters = {word: chr(code) for code, word in enumerate({*completion, *reference})}
    ours, theirs = ("".join([letters[word] for word in words]) for words in (completion, reference))
    left, made, untried = _distance(ours, theirs, len(ours) + len(theirs) + 1), 0, TRIED
    while made + 1 + least < min(made + left, best):  # a move is an edit itself: one that saves a single edit is vain
        moves = list(islice(_moves(ours, theirs), untried))
        untried -= len(moves)
        fewer, moved = _best(ours, theirs, left, moves)
        if not untried or fewer == left:  # sacrebleu makes none of the moves among which the last one was tried
            break
        ours, left, made = moved, fewer, made + 1
    return made + left


def _best(ours: str, theirs: str, left: int, moves: Iterable[Move]) -> tuple[int, str]:
    """Returns the distance and the words after the move that saves most, or as they are if none saves any."""
    best = ours
    for minus, first, target in sorted(set(moves)):
        last = first - minus
        rest = ours[:first] + ours[last:]
        place = target + minus if target > last else target
        moved = rest[:place] + ours[first:last] + rest[place:]
        fewer = _distance(moved, theirs, left)
        if fewer < left:
            left, best = fewer, moved
    return left, best


def _distance(ours: str, theirs: str, below: int) -> int:
    """
    Returns the edit distance that sacrebleu finds inside its beam, or a number that is not below `below` either.

    An alignment strays from the diagonal by at most (edits + difference in length) / 2 cells. Where that is inside the
    beam, the distance is the true one, else it may be greater: only then, and only if it matters, are cells computed.
    """
    from rapidfuzz.distance.Levenshtein import distance

    true: int = distance(ours, theirs, score_cutoff=below)
    if true < below and true + abs(len(ours) - len(theirs)) > 2 * (BEAM - 1):
        return _distances(ours, theirs)[-1][-1]
    return true


def _moves(ours: str, theirs: str) -> Iterator[Move]:
    """Yields the moves of runs of words that both texts have, where neither is aligned with its like already."""
    before, ours_wrong, theirs_wrong = _alignment(ours, theirs)
    for first, word in enumerate(ours):
        place = theirs.find(word, max(0, first - FARTHEST))
        while 0 <= place <= first + FARTHEST:
            wrong = missed = False
            pairs = zip(ours[first : first + LONGEST], theirs[place : place + LONGEST], strict=False)
            for length, (one, other) in enumerate(pairs, start=1):
                if one != other:
                    break
                wrong = wrong or ours_wrong[first + length - 1]
                missed = missed or theirs_wrong[place + length - 1]
                if wrong and missed and not first < before[place + 1] <= first + length:
                    for target in sorted(set(before[place : place + length + 1])):
                        yield -length, first, target
            place = theirs.find(word, place + 1)


def _alignment(ours: str, theirs: str) -> tuple[list[int], list[bool], list[bool]]:
    """
    Returns where each of their words is in ours, and of our words and of theirs which are edited.

    The first list has the number of our words before the first of theirs, then up to and with the one aligned with
    each of theirs. Of equally good alignments it is sacrebleu's: from the end, words are paired rather than ours
    deleted, and deleted rather than theirs inserted.
    """
    rows = _distances(ours, theirs)
    before, ours_wrong, theirs_wrong = [0] * (len(theirs) + 1), [True] * len(ours), [True] * len(theirs)
    i, j = len(ours), len(theirs)
    while j:
        if i and rows[i][j] == rows[i - 1][j - 1] + (ours[i - 1] != theirs[j - 1]):
            ours_wrong[i - 1] = theirs_wrong[j - 1] = ours[i - 1] != theirs[j - 1]
            before[j] = i
            i, j = i - 1, j - 1
        elif i and rows[i][j] == rows[i - 1][j] + 1:
            i -= 1
        else:
            before[j] = i
            j -= 1
    return before, ours_wrong, theirs_wrong


def _distances(ours: str, theirs: str) -> list[list[int]]:
    """Returns the edit distances of the beginnings of both texts, a row per word of ours, as far as the beam goes."""
    ratio = len(theirs) / max(len(ours), 1)
    beam = math.ceil(ratio / 2 + BEAM) if ratio / 2 > BEAM else BEAM
    outside = len(ours) + len(theirs) + 1  # more than any distance
    above = list(range(len(theirs) + 1))
    rows = [above]
    for i, one in enumerate(ours, start=1):
        diagonal = math.floor(i * ratio)
        start, stop = max(diagonal - beam, 0), diagonal + beam if i < len(ours) else len(above)
        row = [outside] * len(above)
        left = outside
        if not start:
            left = row[0] = above[0] + 1
        for j in range(max(start, 1), min(stop, len(above))):
            cell = above[j - 1] + (one != theirs[j - 1])
            if above[j] + 1 < cell:
                cell = above[j] + 1
            if left + 1 < cell:
                cell = left + 1
            left = row[j] = cell
        rows.append(row)
        above = row
    return rows
