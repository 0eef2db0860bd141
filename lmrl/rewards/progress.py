"""The progress of rewards that compare with references, and of those that are cheap: see lmrl/progress.py."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from lmrl.progress import Prefixes, Progress, common_beginning, words_so_far

from .grams import all_ngrams

ORDER = 4  # of the longest n-grams
LEAST_PRECISION = 0.05  # of the n-grams of an order, in a logarithm: none may match
LEAST_BREVITY = -3.0  # logarithm of the brevity penalty: of no unit it is minus infinity


class _References:
    """What is counted of the references of a row, once for all its completions."""

    def __init__(self, texts: Sequence[str], units: Callable[[str], Sequence[str]]):
        self.texts = texts
        split = [units(text) for text in texts]
        self.lengths = [len(reference) for reference in split]
        self.mean_length = sum(self.lengths) / len(self.lengths)
        self.unigrams: list[Counter[tuple[str, ...]]] = [Counter((unit,) for unit in text) for text in split]
        # How often a gram may occur: as often as in the reference that has it most often.
        self.allowed: Counter[tuple[str, ...]] = Counter()
        for reference in split:
            self.allowed |= Counter(all_ngrams(reference, ORDER))
        self.totals = [0] * (ORDER + 1)
        for gram, count in self.allowed.items():
            self.totals[len(gram)] += count


class _Overlap:
    """Counts n-grams as units come, and those that also occur in a reference."""

    def __init__(self, references: _References):
        self._references = references
        self._units: list[str] = []
        self._seen: dict[tuple[str, ...], int] = {}
        self._matches = [0] * (ORDER + 1)
        self._totals = [0] * (ORDER + 1)
        self._covered = [0] * len(references.texts)

    def add(self, units: Sequence[str], sign: int = 1) -> None:
        """Adds units at the end, or with `sign=-1` takes those that were added last away again."""
        for unit in units if sign > 0 else reversed(units):
            if sign > 0:
                self._units.append(unit)
            for order in range(1, min(ORDER, len(self._units)) + 1):
                self._count(tuple(self._units[-order:]), sign)
            if sign < 0:
                self._units.pop()

    def _count(self, gram: tuple[str, ...], sign: int) -> None:
        order = len(gram)
        before = self._seen.get(gram, 0)
        self._seen[gram] = before + sign
        count = max(before, before + sign)  # with the one that comes or goes
        self._totals[order] += sign
        if count <= self._references.allowed.get(gram, 0):
            self._matches[order] += sign
        if order == 1:
            for row, unigrams in enumerate(self._references.unigrams):
                if count <= unigrams.get(gram, 0):
                    self._covered[row] += sign

    def numbers(self) -> list[float]:
        """Returns the numbers of [`overlap_progress`] but for the last two."""
        lengths = self._references.lengths
        length = len(self._units)
        numbers = [length, self._references.mean_length, length / max(self._references.mean_length, 1.0)]
        logs = 0.0
        for order in range(1, ORDER + 1):
            total = self._totals[order]
            matches = self._matches[order]
            numbers += [matches / max(total, 1), matches / max(self._references.totals[order], 1)]
            more = order > 1  # one more match of the higher orders, of which there may be none yet
            precision = (matches + more) / (total + more) if total else 1.0
            logs += math.log(max(precision, LEAST_PRECISION)) / ORDER
        closest = min(lengths, key=lambda reference: (abs(reference - length), reference))
        brevity = max(min(0.0, 1 - closest / max(length, 1)), LEAST_BREVITY)
        numbers += [math.exp(logs), math.exp(logs + brevity)]
        numbers.append(min(length / max(min(lengths), 1), 1.5))
        numbers.append(max(length - max(lengths), 0))
        numbers.append(max(hits / max(size, 1) for hits, size in zip(self._covered, lengths, strict=True)))
        return numbers


def overlap_progress(
    prefixes: Sequence[Prefixes], references: Sequence[Sequence[str]], units: Callable[[str], Sequence[str]]
) -> Progress:
    """
    Returns how far the texts so far agree with their references: 18 numbers before each token.

    They are: the units so far, the mean number of units of a reference, and their ratio; for n-grams of 1 to 4 units
    the share of those so far that match, and the share of the references' that are matched, in [0, 1]; the geometric
    mean of the former, smoothed, and with BLEU's brevity penalty, as if the text ended here; the units over those of
    the shortest reference, at most 1.5, and those beyond the longest; the largest share of one reference's units that
    are there; the largest share of one reference that the text so far begins like, and whether it is one's beginning.
    `references` has those of each completion; `units` returns the words, tokens or characters of a text.
    """
    counted = {texts: _References(texts, units) for texts in {tuple(row) for row in references}}
    rows = zip(prefixes, references, strict=True)
    return [_overlap_of_row(each, counted[tuple(texts)], units) for each, texts in rows]


def _overlap_of_row(
    prefixes: Prefixes, references: _References, units: Callable[[str], Sequence[str]]
) -> list[list[float]]:
    overlap = _Overlap(references)
    alike = [common_beginning(prefixes.text, text) for text in references.texts]
    rows = []
    for (complete, partial), end in zip(words_so_far(prefixes, units), prefixes.ends, strict=True):
        overlap.add(complete)
        overlap.add(partial)
        share = max(min(end, n) / max(len(text), 1) for n, text in zip(alike, references.texts, strict=True))
        rows.append([*overlap.numbers(), share, float(max(alike) >= end)])
        overlap.add(partial, sign=-1)
    return rows


def progress_as_if_ended(
    self: Any, *, prefixes: Sequence[Prefixes], prompts: Sequence[Any] | None = None, **columns: Sequence[Any]
) -> Progress:
    """Returns one number before each token: the reward of the text so far, as if it ended there, 0 for `None`."""
    rows = [row for row, each in enumerate(prefixes) for _ in each]
    inputs = {name: [values[row] for row in rows] for name, values in columns.items() if name in self.columns}
    texts = [text for each in prefixes for text in each]
    scores = iter(self(completions=texts, prompts=prompts and [prompts[row] for row in rows], **inputs))
    return [[[next(scores) or 0.0] for _ in each] for each in prefixes]
