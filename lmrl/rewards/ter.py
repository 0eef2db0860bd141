"""One minus the translation edit rate, equal to sacrebleu's, and the edits and moves of words that it counts."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from lmrl.libraries import Array, np, rapidfuzz, sacrebleu

from .grams import occurrences
from .references import SummedReward, divide

Words = tuple[list[str], set[Any]]  # in order, and as a multiset


def error_rate(sums: Array) -> Array:
    """
    Returns the TER, at least 0, from [`TER.statistics`], `(..., 2)`: edits divided by the mean length of the
    references; if that is 0, then 1 with edits and 0 without.
    """
    edits = sums[..., 0]
    return divide(edits, sums[..., 1], np.sign(edits))


@dataclass(eq=False, repr=False)
class TER(SummedReward[list[Words]]):
    """
    Returns `1 - min(TER, 1)` of each completion, in [0, 1]: sacrebleu's sentence TER as a reward.

    TER is the number of edits (words inserted, deleted or replaced, and runs of words moved; found by a greedy search)
    that turn the completion into its nearest reference, over the references' mean length. From "A Study of Translation
    Edit Rate with Targeted Human Annotation" (Snover et al., 2006, https://aclanthology.org/2006.amta-papers.25). An
    error rate above 1 counts as 1: a completion that needs more edits than its references have words gets 0. Empty
    against empty is 1.

    Because of the mean length, one more reference can lower the reward.

    Args:
        normalized (`bool`, *optional*, defaults to `False`):
            Whether to separate punctuation from words. Else "mat." and "mat" are different words. Done once, as in
            Tercom: sacrebleu 2.6 does it twice to references, so that "John's." does not equal itself.
        no_punct (`bool`, *optional*, defaults to `False`):
            Whether to drop punctuation.
        asian_support (`bool`, *optional*, defaults to `False`):
            Whether `normalized` and `no_punct` (at least one is needed) also treat Chinese and Japanese characters and
            marks.
        case_sensitive (`bool`, *optional*, defaults to `False`):
            Whether case counts.
    """

    normalized: bool = False
    no_punct: bool = False
    asian_support: bool = False
    case_sensitive: bool = False
    name: str = field(default="ter", kw_only=True)

    def __post_init__(self) -> None:
        if self.asian_support and not (self.normalized or self.no_punct):
            raise ValueError("`asian_support` must be False without `normalized` or `no_punct`, got True. Set one.")
        super().__post_init__()
        metric = self.sacrebleu_metric(sacrebleu.TER)
        self._tokenizer = metric.tokenizer
        self._signature = f"ter|{metric.get_signature().format()}"

    def units(self, text: str) -> Words:
        """Returns the words of a text."""
        words: list[str] = self._tokenizer(text.rstrip()).split()  # rstrip: as sacrebleu does
        return words, occurrences(words)

    def progress_units(self, text: str) -> list[str]:
        """Returns the words that its `progress` counts."""
        return self.units(text)[0]

    def batch_statistics(self, completions: Sequence[str], prepared: Sequence[list[Words]]) -> list[list[float]]:
        """Returns for each completion the edits and the mean length of the references."""
        return [self._edits(text, references) for text, references in zip(completions, prepared, strict=True)]

    def _edits(self, completion: str, prepared: list[Words]) -> list[float]:
        words, counted = self.units(completion)
        # Moves keep the words of a text: those in excess of the other text's are a lower bound of the edits. As the
        # search is slow, references are tried by increasing bound and skipped if they cannot win.
        bounds = sorted(
            (max(len(counted), len(other)) - len(counted & other), place) for place, (_, other) in enumerate(prepared)
        )
        best = math.inf
        for bound, place in bounds:
            if bound < best:
                best = min(best, edits(words, prepared[place][0], bound, best))
        return [best, sum(len(reference) for reference, _ in prepared) / len(prepared)]

    def from_statistics(self, sums: Array) -> Array:
        """Returns one minus the TER of each row of statistics, in [0, 1]."""
        return 1 - error_rate(sums).clip(max=1.0)


# The limits of Tercom, by sacrebleu's names. They are part of the definition: the number of edits depends on them.
MAX_SHIFT_SIZE = 10  # words that move together
MAX_SHIFT_DIST = 50  # positions between a run in one text and the same run in the other
MAX_SHIFT_CANDIDATES = 1000  # moves, over all rounds of the search
BEAM_WIDTH = 25  # cells on either side of the diagonal in which sacrebleu looks for an alignment

_REVERSED = str.maketrans("id", "di")  # insertions for deletions

# (-number of words, position of the first, target position): of equally good moves the smallest tuple is made.
Move = tuple[int, int, int]


def edits(completion: Sequence[str], reference: Sequence[str], least: int, best: float) -> int:
    """
    Returns the number of edits of [`TER`] that turn one text into another, as `translation_edit_rate` of sacrebleu's
    `lib_ter` does: the move that saves the most other edits is made, as long as one saves any.

    Args:
        completion (`Sequence[str]`), reference (`Sequence[str]`):
            Words to edit, and to reach.
        least (`int`):
            Lower bound of the edits: the words that one text has in excess, the larger of both counts.
        best (`float`):
            Fewest edits to any other reference so far: a search that cannot end below it stops early, and returns some
            number that is not below it either.
    """
    # One character per word, as slicing, joining and comparing strings is fast.
    letters = {word: chr(code) for code, word in enumerate({*completion, *reference})}
    current = "".join([letters[word] for word in completion])
    goal = "".join([letters[word] for word in reference])
    in_beam = sacrebleu.metrics.lib_ter.BeamEditDistance(list(goal))
    left = _distance(current, goal, len(current) + len(goal) + 1, in_beam)
    made = 0
    candidates = MAX_SHIFT_CANDIDATES
    while made + 1 + least < min(made + left, best):  # a move is an edit: one that saves a single edit is of no use
        moves = list(islice(_moves(current, goal, in_beam), candidates))
        candidates -= len(moves)
        fewer, moved = _best(current, goal, left, moves, in_beam)
        if not candidates or fewer == left:  # sacrebleu makes no move of the round in which candidates run out
            break
        current = moved
        left = fewer
        made += 1
    return made + left


def _best(completion: str, reference: str, left: int, moves: Iterable[Move], in_beam: Any) -> tuple[int, str]:
    """Returns the edit distance and the words after the best move, or `left` and the words unchanged if none helps."""
    best = completion
    for minus, first, target in sorted(set(moves)):
        last = first - minus
        rest = completion[:first] + completion[last:]
        place = target + minus if target > last else target
        moved = rest[:place] + completion[first:last] + rest[place:]
        fewer = _distance(moved, reference, left, in_beam)
        if fewer < left:
            left, best = fewer, moved
    return left, best


def _distance(completion: str, reference: str, below: int, in_beam: Any) -> int:
    """
    Returns the edit distance that sacrebleu finds inside its beam, or, if that is at least `below`, any such number.

    An alignment strays from the diagonal by at most (edits + difference in length) / 2 cells. Inside the beam
    sacrebleu finds the true distance, else perhaps a greater one: only then, if it matters, its code is run.
    """
    true: int = rapidfuzz.distance.Levenshtein.distance(completion, reference, score_cutoff=below)
    if true < below and true + abs(len(completion) - len(reference)) > 2 * (BEAM_WIDTH - 1):
        true, _ = in_beam(completion)
    return true


def _moves(completion: str, reference: str, in_beam: Any) -> Iterator[Move]:
    """Yields the moves of runs of words that both texts have, where the two are not aligned already."""
    # The trace turns the completion into the reference; `aligned` maps positions in the reference to the completion.
    _, trace = in_beam(completion)
    reversed_trace = trace.translate(_REVERSED)
    aligned, reference_edited, completion_edited = sacrebleu.metrics.lib_ter.trace_to_alignment(reversed_trace)
    before = [0, *(aligned[place] + 1 for place in range(len(reference)))]  # targets: after each aligned word
    for first, word in enumerate(completion):
        place = reference.find(word, max(0, first - MAX_SHIFT_DIST))
        while 0 <= place <= first + MAX_SHIFT_DIST:
            wrong = missed = False
            run = completion[first : first + MAX_SHIFT_SIZE]
            pairs = zip(run, reference[place : place + MAX_SHIFT_SIZE], strict=False)
            for length, (one, other) in enumerate(pairs, start=1):
                if one != other:
                    break
                wrong = wrong or completion_edited[first + length - 1]
                missed = missed or reference_edited[place + length - 1]
                if wrong and missed and not first < before[place + 1] <= first + length:
                    for target in sorted(set(before[place : place + length + 1])):
                        yield -length, first, target
            place = reference.find(word, place + 1)
