"""N-grams of texts so far that their references have too, counted for a batch at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lmrl.libraries import Integers, np

from .ngrams import ngram_codes
from .units import UnitsSoFar

_MOST_UNITS = 2**14  # counted at a time: more take memory and save no time


@dataclass(frozen=True)
class Counts:
    """
    What texts so far share with their references, before each of N tokens of a batch.

    Args:
        shared (`numpy.ndarray` of shape `(N, order, R)`):
            N-grams of 1 to `order` units that are in each of R references too, each as often as in both; 0 for a
            reference that a row does not have.
        together (`numpy.ndarray` of shape `(N, order)`):
            Those that are in any of them, each at most as often as in the reference that has it most often.
        allowed (`numpy.ndarray` of shape `(N, order)`):
            The most that `together` can become.
    """

    shared: Integers
    together: Integers
    allowed: Integers


def count_shared(texts: Sequence[UnitsSoFar], references: Sequence[Sequence[Sequence[str]]], order: int) -> Counts:
    """
    Returns the n-grams that texts so far share with their references.

    Args:
        texts, references:
            Units of each text, and of its references, one at least. Texts share the work if they share the object with
            their references.
        order (`int`):
            Length of the longest n-grams, at least 1.
    """
    tokens = np.cumsum([0] + [len(text.places) for text in texts])
    width = max(map(len, references), default=1)
    shared = np.zeros((tokens[-1], order, width), np.int32)
    together = np.zeros((tokens[-1], order), np.int32)
    allowed = np.zeros((tokens[-1], order), np.int32)
    for rows in _parts(texts, references):
        flat = _Flat([texts[row] for row in rows], [references[row] for row in rows], width, order)
        places = np.concatenate([np.arange(tokens[row], tokens[row + 1]) for row in rows])
        for n, codes in enumerate(flat.codes()):
            matches, most = flat.count(codes, n)
            shared[places, n] = matches[:width].T
            together[places, n] = matches[width]
            allowed[places, n] = most
    return Counts(shared, together, allowed)


def _parts(texts: Sequence[UnitsSoFar], references: Sequence[Sequence[Sequence[str]]]) -> Iterator[list[int]]:
    """Yields the rows that are counted together: those of the same references, and of others as long as they fit."""
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

    Where a word was another one before it went on, its units follow as a branch. After a branch the units before it
    come again, as the context of what follows, and are not counted.
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
        self._groups: dict[int, int] = {}
        self._rows = len(texts)
        starts: list[int] = []  # of the text of each token
        ends: list[int] = []  # of the text so far of each token
        bases: list[int] = []  # where its branch begins, its end if it has none
        groups: list[int] = []
        for of_row in references:
            group = self._groups.setdefault(id(of_row), len(self._groups))
            if group == len(groups):
                groups.append(group)
                for place, reference in enumerate(of_row):
                    self._add(reference, group, place, self._end)
        self._first_text = self._end  # where those of texts begin
        group_of_text = [self._groups[id(of_row)] for of_row in references]
        for row, text in enumerate(texts):
            starts.append(self._end)
            of_tokens = self._add_text(text, group_of_text[row], width + row)
            bases += [base for base, _ in of_tokens]
            ends += [end for _, end in of_tokens]
        tokens = [len(text.places) for text in texts]
        self._starts = np.repeat(np.array(starts, np.int64), tokens)
        self._ends = np.array(ends, np.int64)
        self._bases = np.array(bases, np.int64)
        self._group_of_token = np.repeat(np.array(group_of_text, np.int64), tokens)
        labels = np.array(self._labels, np.int64).reshape(-1, 5)
        lengths = [len(segment) for segment in self._segments]
        self._group, self._row, self._branch, beginning, counts = np.repeat(labels, lengths, axis=0).T
        before = np.arange(self._end) - beginning  # units of the same text before this one
        self._before = np.where(counts, before, -1)

    def _add(
        self, units: Sequence[str], group: int, row: int, beginning: int, branch: int = 0, counts: int = 1
    ) -> None:
        self._segments.append(units)
        self._labels.append((group, row, branch, beginning, counts))
        self._end += len(units)

    def _add_text(self, text: UnitsSoFar, group: int, row: int) -> list[tuple[int, int]]:
        """Returns for each token where the units of its branch begin, and where those of its text so far end."""
        start = self._end
        if not text.endings:
            self._add(text.units, group, row, start)
            return [(start + place, start + place) for place in text.places]
        after = [start]  # where so many units of the complete text end
        branches = {}
        beginning = start
        on_trunk = True
        for token, place in [*((token, text.places[token]) for token in text.endings), (-1, len(text.units))]:
            position = len(after) - 1
            for is_branch in (False, True):
                units = text.endings.get(token, ()) if is_branch else text.units[position:place]
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

    def codes(self) -> Integers:
        """Returns for each length and place the number of the n-gram that begins there."""
        self._place_bits = self._end.bit_length()
        self._bits = 62 - len(self._groups).bit_length() - self._place_bits
        return ngram_codes(self._segments, self._order, self._bits)

    def count(self, codes: Integers, before: int) -> tuple[Integers, Integers]:
        """
        Returns for each of N tokens the n-grams of its text so far that are in each of R references, and at last in
        any, (R + 1, N), and how many there are in all references together, (N,), for n-grams of `before + 1` units.
        """
        # 1. The n-grams that end at each place, the same ones of a group side by side, in the order of time and so of
        # the texts; and how often each reference has them.
        ends = np.flatnonzero(self._before >= before)
        keys = (self._group[ends] << self._bits | codes[ends - before]) << self._place_bits | ends
        keys.sort()
        ends = keys & (1 << self._place_bits) - 1
        keys >>= self._place_bits
        new = np.diff(keys, prepend=-1) != 0
        grams = np.cumsum(new) - 1
        groups = keys[new] >> self._bits
        rows = self._row[ends]
        is_reference = rows < self._width
        cells = rows[is_reference] * len(groups) + grams[is_reference]
        allowed = np.bincount(cells, minlength=self._width * len(groups)).reshape(self._width, -1)
        allowed = np.vstack([allowed, allowed.max(axis=0, initial=0)])
        totals = np.bincount(groups, weights=allowed[-1], minlength=len(self._groups))

        # 2. Which occurrence it is in its text so far, from 0 on.
        known = ~is_reference & (allowed[-1, grams] > 0)
        ends, grams = ends[known], grams[known]
        runs = grams * self._rows + rows[known] - self._width
        branches = self._branch[ends]
        is_trunk = branches == 0
        new = np.diff(runs, prepend=-1) != 0
        earlier = np.cumsum(is_trunk) - is_trunk
        occurrence = earlier - _at_last(earlier, new)
        places = np.arange(len(runs))
        new |= np.diff(branches, prepend=-1) != 0
        occurrence += np.where(is_trunk, 0, places - _at_last(places, new))  # those of its own branch

        # 3. It is shared where the reference has as many: in complete texts, and in branches.
        is_shared = occurrence < allowed[:, grams]
        matches = self._count_between(ends[is_trunk], is_shared[:, is_trunk], self._starts)
        if self._branches:
            matches += self._count_between(ends[~is_trunk], is_shared[:, ~is_trunk], self._bases)
        return matches, totals[self._group_of_token]

    def _count_between(self, ends: Integers, is_shared: Integers, starts: Integers) -> Integers:
        """Returns for each token how many n-grams that end from a start on to its end are shared, of those given."""
        shared = np.zeros((self._width + 1, self._end - self._first_text + 1), np.int32)
        shared[:, ends - self._first_text + 1] = is_shared
        shared.cumsum(axis=1, out=shared)
        counts: Integers = shared[:, self._ends - self._first_text] - shared[:, starts - self._first_text]
        return counts


def _at_last(values: Integers, new: Integers) -> Integers:
    """Returns for each place the value at the last place up to it that is new; the first one is."""
    return values[np.maximum.accumulate(np.where(new, np.arange(len(values)), 0))]
