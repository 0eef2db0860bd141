"""How many n-grams texts so far share with their references, counted for a batch at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lmrl.libraries import Integers, np

from .ngrams import numbered
from .units import UnitsSoFar

ORDER = 4  # length of the longest n-grams among the numbers of a text
_MOST_UNITS = 2**13  # counted at a time: more take memory and save no time


@dataclass(frozen=True)
class Counts:
    """
    What texts so far share with their references, before each of N tokens of a batch.

    Args:
        shared (`numpy.ndarray` of shape `(N, order, R)`):
            N-grams of 1 to `order` units that are in each of R references too, each as often as in both; 0 for a
            reference that a row does not have.
        together (`numpy.ndarray` of shape `(N, order)`):
            N-grams that are in any reference, each at most as often as in the one that has it most often.
        allowed (`numpy.ndarray` of shape `(N, order)`):
            The most that `together` can become; of more than `ORDER` units only by n-grams with shared parts.
    """

    shared: Integers
    together: Integers
    allowed: Integers


def count_shared(texts: Sequence[UnitsSoFar], references: Sequence[Sequence[Sequence[str]]], order: int) -> Counts:
    """
    Returns the n-grams that texts so far share with their references.

    Args:
        texts, references:
            Units of each text, and of its references, one at least. Texts share the work if the sequence of their
            references is the same object.
        order (`int`):
            Length of the longest n-grams, at least 1.
    """
    tokens = np.cumsum([0] + [len(text.places) for text in texts])
    width = max(map(len, references), default=1)
    shared = np.zeros((order, width, tokens[-1]), np.int32)
    together = np.zeros((order, tokens[-1]), np.int32)
    allowed = np.zeros((order, tokens[-1]), np.int32)
    for rows in _parts(texts, references):
        flat = _Flat([texts[row] for row in rows], [references[row] for row in rows], width, order)
        places = np.concatenate([np.arange(tokens[row], tokens[row + 1]) for row in rows])
        for n in range(order):
            matches, most = flat.count(n)
            shared[n][:, places] = matches[:width]
            together[n, places] = matches[width]
            allowed[n, places] = most
    return Counts(shared.transpose(2, 0, 1), together.T, allowed.T)


def _parts(texts: Sequence[UnitsSoFar], references: Sequence[Sequence[Sequence[str]]]) -> Iterator[list[int]]:
    """Yields the rows to count together: those with the same references, and more up to `_MOST_UNITS` units."""
    groups: dict[int, list[int]] = {}
    for row, of_row in enumerate(references):
        groups.setdefault(id(of_row), []).append(row)
    part: list[int] = []
    units = 0
    for rows in groups.values():
        units += sum(map(len, references[rows[0]])) + sum(len(texts[row].units) for row in rows)
        if part and units > _MOST_UNITS:
            yield part
            part = []
            units = 0
        part += rows
    if part:
        yield part


class _Flat:
    """
    The units of texts and of their references as one sequence, in the order of time.

    Where an unfinished word has other units than the finished one, as "cat" in "cats", its units follow as a branch.
    After a branch the units before it are repeated, as the context of what follows, and are not counted again.
    """

    def __init__(
        self,
        texts: Sequence[UnitsSoFar],
        references: Sequence[Sequence[Sequence[str]]],
        width: int,
        order: int,
    ) -> None:
        self._width = width
        self._order = order
        self._segments: list[Sequence[str]] = []
        self._labels: list[tuple[int, ...]] = []  # of each segment: group, row, branch, beginning, whether it counts
        self._end = 0
        self._branches = 0
        self._known: dict[int, set[str]] = {}  # units of the references of groups
        self._groups: dict[int, int] = {}
        self._rows = len(texts)
        starts: list[int] = []  # where the units of each text begin
        of_tokens: list[tuple[int, int]] = []  # where the branch of a token begins, and where its text so far ends
        for of_row in references:
            if id(of_row) not in self._groups:
                group = self._groups[id(of_row)] = len(self._groups)
                for place, reference in enumerate(of_row):
                    self._add(reference, group, place, self._end)
        self._first_text = self._end  # where the units of texts begin
        group_of_text = [self._groups[id(of_row)] for of_row in references]
        for row, text in enumerate(texts):
            starts.append(self._end)
            of_tokens += self._add_text(text, group_of_text[row], width + row, references[row])
        tokens = [len(text.places) for text in texts]
        self._starts = np.repeat(np.array(starts, np.int64), tokens)
        self._bases, self._ends = np.array(of_tokens, np.int64).reshape(-1, 2).T.copy()
        self._group_of_token = np.repeat(np.array(group_of_text, np.int64), tokens)
        labels = np.array(self._labels, np.int64).reshape(-1, 5)
        lengths = [len(segment) for segment in self._segments]
        self._group, self._row, self._branch, beginning, counts = np.repeat(labels, lengths, axis=0).T
        self._counts = counts.astype(bool)
        self._before = np.arange(self._end) - beginning  # units of the same text before this one
        units = numbered(self._segments)
        # numpy sorts numbers of two bytes in linear time.
        self._small = np.uint16 if self._end < 2**16 else np.int64
        self._units = units.astype(self._small)
        self._by_unit = self._units.argsort(kind="stable")
        self._prefixes = self._group.astype(self._small)  # for each place the number of the n-gram before its unit
        self._candidates = np.ones(self._end, bool)  # places where n-grams end that may match, and all of references

    def _add(
        self, units: Sequence[str], group: int, row: int, beginning: int, branch: int = 0, counts: int = 1
    ) -> None:
        self._segments.append(units)
        self._labels.append((group, row, branch, beginning, counts))
        self._end += len(units)

    def _add_text(
        self, text: UnitsSoFar, group: int, row: int, references: Sequence[Sequence[str]]
    ) -> list[tuple[int, int]]:
        """
        Adds a text. Returns for each token where the units of its branch begin, or, without a branch, where its text
        so far ends; and where its text so far ends.
        """
        start = self._end
        endings = self._shared_endings(text, group, references)
        if not endings:
            self._add(text.units, group, row, start)
            return [(start + place, start + place) for place in text.places]
        after = [start]  # for 0, 1, ... units of the complete text, where they end
        branches = {}
        beginning = start
        on_trunk = True
        for token, place in [*((token, text.places[token]) for token in endings), (-1, len(text.units))]:
            position = len(after) - 1
            for is_branch in (False, True):
                units = endings.get(token, ()) if is_branch else text.units[position:place]
                if not units:
                    continue
                if not on_trunk:
                    done = place if is_branch else position
                    beginning = self._end
                    self._add(text.units[max(done - self._order + 1, 0) : done], group, row, beginning, counts=0)
                first = self._end
                self._branches += is_branch
                self._add(units, group, row, beginning, branch=self._branches if is_branch else 0)
                on_trunk = not is_branch
                if is_branch:
                    branches[token] = (first, self._end)
                else:
                    after += range(first + 1, self._end + 1)
        at_places = [(after[place], after[place]) for place in text.places]
        return [branches.get(token, at_place) for token, at_place in enumerate(at_places)]

    def _shared_endings(
        self, text: UnitsSoFar, group: int, references: Sequence[Sequence[str]]
    ) -> dict[int, Sequence[str]]:
        """Returns the endings that have a unit which references have too; those of most unfinished words have none."""
        if not text.endings:
            return {}
        if group not in self._known:
            self._known[group] = set().union(*references)
        known = self._known[group]
        return {token: units for token, units in text.endings.items() if not known.isdisjoint(units)}

    def count(self, before: int) -> tuple[Integers, Integers]:
        """
        Returns how many n-grams of the text so far of each of N tokens are in each of R references, and, as the last
        row, in any of them, (R + 1, N); and how many all references together have, (N,), above `ORDER` units only
        those that may match. N-grams have `before + 1` units; those of `before` units must be counted first.
        """
        # 1. The n-grams that end at each place, sorted so that equal ones of a group are side by side, in the order of
        # time and so of the texts; and how often each reference has them.
        ends = self._by_unit[self._candidates[self._by_unit]]
        prefixes = self._prefixes[ends]
        by_prefix = prefixes.argsort(kind="stable")
        ends = ends[by_prefix]
        new = _changes(prefixes[by_prefix]) | _changes(self._units[ends])
        grams = np.cumsum(new) - 1
        groups = self._group[ends[new]]
        all_ends = ends
        all_grams = grams
        counted = self._counts[ends]
        ends = ends[counted]
        grams = grams[counted]
        rows = self._row[ends]
        is_reference = ends < self._first_text
        cells = rows[is_reference] * len(groups) + grams[is_reference]
        allowed = np.bincount(cells, minlength=self._width * len(groups)).reshape(self._width, -1)
        allowed = np.vstack([allowed, allowed.max(axis=0, initial=0)])
        totals = np.bincount(groups, weights=allowed[-1], minlength=len(self._groups))

        # 2. The number of each occurrence among those of the n-gram in its text so far, from 0 on.
        in_texts = np.bincount(grams[~is_reference], minlength=len(groups)) > 0
        self._go_on(all_ends, all_grams, (allowed[-1] > 0) & in_texts, before + 1)
        known = ~is_reference & (allowed[-1, grams] > 0)
        ends = ends[known]
        grams = grams[known]
        runs = grams * self._rows + rows[known] - self._width
        branches = self._branch[ends]
        is_trunk = branches == 0
        new = _changes(runs)
        earlier = np.cumsum(is_trunk) - is_trunk
        occurrence = earlier - _at_last(earlier, new)
        places = np.arange(len(runs))
        new |= _changes(branches)
        occurrence += np.where(is_trunk, 0, places - _at_last(places, new))  # and those in its own branch

        # 3. It is shared if the reference has that many: in complete texts, and in branches.
        is_shared = occurrence < allowed.take(grams, axis=1)  # which is faster than to index
        if not self._branches:
            return self._count_between(ends, is_shared, self._starts), totals[self._group_of_token]
        matches = self._count_between(ends[is_trunk], is_shared[:, is_trunk], self._starts)
        matches += self._count_between(ends[~is_trunk], is_shared[:, ~is_trunk], self._bases)
        return matches, totals[self._group_of_token]

    def _go_on(self, ends: Integers, grams: Integers, is_shared: Integers, before: int) -> None:
        """Prepares the n-grams with one unit more: those of texts can match only if both parts are shared."""
        may_match = np.zeros(self._end, bool)
        may_match[ends] = is_shared[grams]
        self._candidates = self._before >= before
        of_references = self._candidates[: self._first_text].copy()
        self._candidates[1:] &= may_match[1:] & may_match[:-1]
        if before < ORDER:  # all of those of references are counted
            self._candidates[: self._first_text] = of_references
        self._prefixes[ends[ends + 1 < self._end] + 1] = grams[ends + 1 < self._end]

    def _count_between(self, ends: Integers, is_shared: Integers, starts: Integers) -> Integers:
        """Returns for each token how many of the given n-grams, ending from its start up to its end, are shared."""
        shared = np.zeros((self._width + 1, self._end - self._first_text + 1), np.int32)
        shared[:, ends - self._first_text + 1] = is_shared
        shared.cumsum(axis=1, out=shared)
        counts: Integers = shared.take(self._ends - self._first_text, axis=1)
        counts -= shared.take(starts - self._first_text, axis=1)
        return counts


def _changes(values: Integers) -> Integers:
    """Returns for each place whether its value differs from the one before it; true at the first place."""
    changes = np.ones(len(values), bool)
    changes[1:] = values[1:] != values[:-1]
    return changes


def _at_last(values: Integers, new: Integers) -> Integers:
    """Returns for each place the value at the last place up to it where `new` is true, as it is at the first one."""
    return values[np.maximum.accumulate(np.where(new, np.arange(len(values)), 0))]
