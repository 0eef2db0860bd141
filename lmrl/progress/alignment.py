"""Edit distances and longest common subsequences of texts so far with their references, in one pass over each text.

The columns of the dynamic-programming table are the bits of an integer. One integer holds those of all references of a
row side by side, each with one more bit above it that takes the carry of additions.
"""

from collections.abc import Callable, Sequence

from lmrl.libraries import Integers, np

from .units import UnitsSoFar

State = tuple[int, ...]


class _Columns:
    """The bits of the references of a row."""

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        self.lengths = [len(reference) for reference in references]
        self.firsts: list[int] = []  # lowest bit of each reference
        self.lowest = 0  # these bits, of references that are not empty
        self.all = 0  # bits of all units
        self._matches: dict[str, int] = {}
        place = 0
        for reference in references:
            self.firsts.append(place)
            self.lowest |= 1 << place if reference else 0
            for unit in reference:
                self.all |= 1 << place
                self._matches[unit] = self._matches.get(unit, 0) | 1 << place
                place += 1
            place += 1  # for the carry

    def lcs_step(self, state: State, unit: str) -> State:
        """
        Returns the state after one more unit: its zeros are as many as the longest common subsequence has units.

        From "Bit-Parallel LCS-length Computation Revisited" (Hyyrö, 2004).
        """
        [level] = state
        hits = level & self._matches.get(unit, 0)
        return (((level + hits) | (level - hits)) & self.all,)

    def edit_step(self, state: State, unit: str) -> State:
        """
        Returns the state after one more unit: bits where the distance grows from one unit of a reference to the next,
        and bits where it falls.

        From "A Bit-Vector Algorithm for Computing Levenshtein and Damerau Edit Distances" (Hyyrö, 2003).
        """
        grows, falls = state
        equal = self._matches.get(unit, 0)
        diagonal = ((((equal & grows) + grows) ^ grows) | equal | falls) & self.all
        right_grows = falls | self.all ^ (diagonal | grows)  # `^` is "and not" here, at half the time
        right_falls = diagonal & grows
        right_grows = (right_grows << 1 | self.lowest) & self.all
        right_falls = right_falls << 1 & self.all
        return right_falls | self.all ^ (diagonal | right_grows), right_grows & diagonal

    def ones(self, numbers: Sequence[int]) -> Integers:
        """Returns how many bits of each reference are set in each number, `(numbers, references)`."""
        size = (self.firsts[-1] + self.lengths[-1]) // 8 + 1
        packed = np.frombuffer(b"".join(number.to_bytes(size, "little") for number in numbers), np.uint8)
        bits = np.unpackbits(packed.reshape(-1, size), axis=1, bitorder="little")
        # The bits above those of the last reference are not set.
        return np.add.reduceat(bits, self.firsts, axis=1, dtype=np.int32)


def _states(text: UnitsSoFar, state: State, step: Callable[[State, str], State]) -> list[State]:
    """Returns the state of the text so far before each token."""
    states = [state]
    for unit in text.units:
        state = step(state, unit)
        states.append(state)
    of_tokens = []
    for token, place in enumerate(text.places):
        state = states[place]
        for unit in text.endings.get(token, ()):
            state = step(state, unit)
        of_tokens.append(state)
    return of_tokens


def _by_row(
    texts: Sequence[UnitsSoFar],
    references: Sequence[Sequence[Sequence[str]]],
    count: Callable[[_Columns, UnitsSoFar], Integers],
) -> Integers:
    """Returns the counts of all rows one after the other, `(N, R)`, 0 for references that a row does not have."""
    columns: dict[int, _Columns] = {}
    counts = np.zeros((sum(len(text.places) for text in texts), max(map(len, references), default=1)), np.int32)
    first = 0
    for text, of_row in zip(texts, references, strict=True):
        if id(of_row) not in columns:
            columns[id(of_row)] = _Columns(of_row)
        last = first + len(text.places)
        if last > first:
            counts[first:last, : len(of_row)] = count(columns[id(of_row)], text)
        first = last
    return counts


def lcs_so_far(texts: Sequence[UnitsSoFar], references: Sequence[Sequence[Sequence[str]]]) -> Integers:
    """Returns the length of the longest common subsequence of each text so far with each reference, `(N, R)`."""

    def _count(columns: _Columns, text: UnitsSoFar) -> Integers:
        states = _states(text, (columns.all,), columns.lcs_step)
        return np.array(columns.lengths) - columns.ones([level for (level,) in states])

    return _by_row(texts, references, _count)


def distances_so_far(texts: Sequence[UnitsSoFar], references: Sequence[Sequence[Sequence[str]]]) -> Integers:
    """Returns the edit distance of each text so far from each reference, `(N, R)`: see [`EditSimilarity`]."""

    def _count(columns: _Columns, text: UnitsSoFar) -> Integers:
        states = _states(text, (columns.all, 0), columns.edit_step)
        ones = columns.ones([*(grows for grows, _ in states), *(falls for _, falls in states)])
        return np.array(text.lengths())[:, None] + ones[: len(states)] - ones[len(states) :]

    return _by_row(texts, references, _count)
