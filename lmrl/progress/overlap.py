"""How far texts so far agree with their references."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lmrl.libraries import Array, Integers, np

from .counts import ORDER, Counts, count_shared
from .prefixes import Prefixes, Progress, common_beginning, per_completion
from .units import UnitsSoFar, units_so_far

LEAST_PRECISION = 0.05  # lower bound in a logarithm, as no n-gram of an order may match
LEAST_BREVITY = -3.0  # lower bound of the logarithm of the brevity penalty: without a unit it is minus infinity


@dataclass(frozen=True)
class Overlap:
    """What is counted of texts so far and their references, before each of the N tokens of all completions."""

    prefixes: Sequence[Prefixes]  # of each completion, as all that follows
    texts: Sequence[UnitsSoFar]  # in words, tokens or characters
    references: Sequence[tuple[str, ...]]
    units: Sequence[Sequence[Sequence[str]]]  # of references; completions share the work if they share the object
    order: int = ORDER  # length of the longest n-grams, at least 1

    @classmethod
    def of_units(
        cls,
        prefixes: Sequence[Prefixes],
        references: Sequence[tuple[str, ...]],
        units: Callable[[str], Sequence[str]],
        order: int = ORDER,
        so_far: Callable[[Prefixes, Callable[[str], Sequence[str]]], UnitsSoFar] = units_so_far,
    ) -> "Overlap":
        """
        Returns the overlap of texts that `units` splits into units. `so_far` splits the texts so far, by default word
        by word.
        """
        split = {of_row: [units(text) for text in of_row] for of_row in references}
        units = functools.cache(units)  # of words, which come again in most texts
        texts = [so_far(each, units) for each in prefixes]
        return cls(prefixes, texts, references, [split[of_row] for of_row in references], order)

    @functools.cached_property
    def counts(self) -> Counts:
        """The n-grams in common."""
        return count_shared(self.texts, self.units, self.order)

    @functools.cached_property
    def lengths(self) -> Integers:
        """Units of each text so far, (N,)."""
        return np.array([length for text in self.texts for length in text.lengths()], np.int64)

    @functools.cached_property
    def totals(self) -> Integers:
        """N-grams of 1 to `order` units of each text so far, (N, order)."""
        return (self.lengths[:, None] - np.arange(self.order)).clip(min=0)

    @functools.cached_property
    def reference_lengths(self) -> Integers:
        """Units of each of R references, (N, R), and -1 for one that a row does not have."""
        return self.of_references([[len(units) for units in of_row] for of_row in self.units], -1)

    @property
    def exists(self) -> Integers:
        """Whether a row has a reference, (N, R)."""
        return self.reference_lengths >= 0

    def of_references(self, values: Sequence[Sequence[int]], missing: int) -> Integers:
        """Returns values per completion and reference, repeated for each token of the completion, (N, R)."""
        table = np.full((len(values), max(map(len, values), default=1)), missing, np.int64)
        for row, of_row in enumerate(values):
            table[row, : len(of_row)] = of_row
        # Tokens side by side in memory: what is done to all of them is then fast.
        return np.repeat(table.T, [len(prefixes) for prefixes in self.prefixes], axis=1).T

    def best(self, scores: Array) -> Array:
        """Returns the largest score over the references of a row, (N,), of scores (N, R)."""
        return np.where(self.exists, scores, -np.inf).max(axis=1)

    def mean(self, scores: Array) -> Array:
        """Returns the mean of the scores over the references of a row, (N,), of scores (N, R)."""
        return np.where(self.exists, scores, 0).sum(axis=1) / self.exists.sum(axis=1)

    def closest(self) -> Integers:
        """Returns the length of the reference closest in length, of two equally close ones the shorter, (N,)."""
        lengths = self.reference_lengths
        far = np.abs(lengths - self.lengths[:, None])
        least = np.where(self.exists, far, far.max(initial=0) + 1).min(axis=1, keepdims=True)
        return np.where(self.exists & (far == least), lengths, lengths.max(initial=0)).min(axis=1)

    def numbers(self) -> Array:
        """
        Returns 18 numbers, (N, 18).

        They are: the units so far, the mean number of units of a reference, and their ratio; for n-grams of 1 to 4
        units the share of those so far that match, and the share of the references' that are matched, in [0, 1]; the
        geometric mean of the former, smoothed, and with BLEU's brevity penalty, as if the text ended here; the units
        over those of the shortest reference, at most 1.5, and those beyond the longest; the largest share of one
        reference's units that are there; the largest share of one reference that the text so far begins like, and
        whether it is one's beginning.
        """
        length = self.lengths
        mean_length = self.mean(self.reference_lengths)
        matches = self.counts.together[:, :ORDER]
        totals = self.totals[:, :ORDER]
        precisions = matches / totals.clip(min=1)
        recalls = matches / self.counts.allowed[:, :ORDER].clip(min=1)
        more = np.arange(ORDER) > 0  # one more match of the higher orders, of which there may be none yet
        smoothed = np.where(totals > 0, (matches + more) / (totals + more).clip(min=1), 1.0)
        logs = np.log(smoothed.clip(min=LEAST_PRECISION)).mean(axis=1)
        brevity = (1 - self.closest() / length.clip(min=1)).clip(LEAST_BREVITY, 0)
        longest = self.reference_lengths.max(axis=1)
        shortest = np.where(self.exists, self.reference_lengths, longest[:, None]).min(axis=1)
        return np.column_stack(
            [
                length,
                mean_length,
                length / mean_length.clip(min=1),
                np.stack([precisions, recalls], axis=2).reshape(-1, 2 * ORDER),
                np.exp(logs),
                np.exp(logs + brevity),
                (length / shortest.clip(min=1)).clip(max=1.5),
                (length - longest).clip(min=0),
                self.best(self.counts.shared[:, 0] / self.reference_lengths.clip(min=1)),
                *self._beginnings(),
            ]
        )

    def _beginnings(self) -> tuple[Array, Array]:
        """Returns the largest share of a reference that a text so far begins like, and if it is one's beginning."""
        pairs = zip(self.prefixes, self.references, strict=True)
        alike = [[common_beginning(each.text, text) for text in references] for each, references in pairs]
        ends = np.array([end for prefixes in self.prefixes for end in prefixes.ends], np.int64)
        characters = self.of_references([[len(text) for text in references] for references in self.references], 0)
        common = self.of_references(alike, 0)
        share = self.best(np.minimum(common, ends[:, None]) / characters.clip(min=1))
        return share, common.max(axis=1) >= ends

    def progress(self, as_if_ended: "Array | None") -> Progress:
        """Returns the numbers before each token, after the reward of the text so far, `as_if_ended` (N,), if given."""
        numbers = self.numbers()
        if as_if_ended is not None:
            numbers = np.column_stack([as_if_ended, numbers])
        return per_completion(numbers.tolist(), self.prefixes)
