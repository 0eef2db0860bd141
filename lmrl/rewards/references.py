"""Base classes of the rewards that compare a completion with references."""

import functools
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar, cast

from lmrl.libraries import Array, np
from lmrl.progress import Overlap, Prefixes, Progress, UnitsSoFar, units_so_far
from lmrl.utils import check_at_least

from .algebra import Reward
from .base import Columns, Prompts, Scores

Prepared = TypeVar("Prepared")


@dataclass(eq=False, repr=False, kw_only=True)
class ReferenceReward(Reward, Generic[Prepared]):
    """
    Base of the rewards that compare a completion with one or more references.

    Every subclass takes the arguments below too, by keyword. It defines `units` and `score`, or `scores`. What depends
    on the references alone is computed by `prepare`, and cached for the `cache_size` rows used last, as all
    completions of a prompt have the same references. The cache is not pickled.

    Args:
        name (`str`):
            Name under which trainers log it.
        column (`str`, *optional*, defaults to `"references"`):
            Dataset column with the references: in each row a string or a list of strings.
        cache_size (`int`, *optional*, defaults to `1024`):
            Rows whose prepared references are kept, at least 1.

    Raises:
        ValueError: When called, for a row without references.
    """

    progress_order = 4  # length of the longest n-grams that `progress` counts

    name: str
    column: str = "references"
    cache_size: int = 1024

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "as_if_ended" in vars(cls):
            cls.potential = 0

    def __post_init__(self) -> None:
        super().__init__(self.name, columns=(self.column,))
        check_at_least(1, cache_size=self.cache_size)

    @functools.cached_property
    def _prepared(self) -> "functools._lru_cache_wrapper[Prepared]":
        return functools.lru_cache(maxsize=self.cache_size)(self.prepare)

    def units(self, text: str) -> Any:
        """Returns the units of a text that are compared, such as its tokens."""
        raise NotImplementedError(f"{type(self).__name__} must define `units` or `prepare`.")

    def prepare(self, references: tuple[str, ...]) -> Prepared:
        """Returns what `score` needs to know of the references of a row: by default the units of each."""
        units: list[Any] = [self.units(reference) for reference in references]
        return cast(Prepared, units)

    def score(self, completion: str, prepared: Prepared) -> float:
        """Returns the reward of a completion, given the result of `prepare` for its references."""
        raise NotImplementedError(f"{type(self).__name__} must define `score` or `scores`.")

    def scores(self, completions: list[str], prompts: Prompts, columns: Columns) -> Scores:
        """Returns the reward of each text against its row of references."""
        prepared = self._prepare_rows(columns[self.column])
        return [self.score(text, row) for text, row in zip(completions, prepared, strict=True)]

    def progress_units(self, text: str) -> Sequence[str]:
        """Returns the units of a text that `progress` counts: by default the words between white space."""
        return text.split()

    def progress(self, *, prefixes: Sequence[Prefixes], **columns: Any) -> Progress:
        """Returns the numbers of [`~lmrl.progress.Overlap`], first the reward as if the text ended here, if any."""
        references = self._references(self._checked(columns, len(prefixes))[self.column])
        overlap = Overlap.of_units(prefixes, references, self.progress_units, self.progress_order, self.so_far)
        return overlap.progress(None if self.potential is None else self.as_if_ended(overlap))

    def so_far(self, prefixes: Prefixes, units: Callable[[str], Sequence[str]]) -> UnitsSoFar:
        """Returns the units that `progress` counts in each text so far; `units` is `progress_units`."""
        return units_so_far(prefixes, units)

    def as_if_ended(self, overlap: Overlap) -> Array:
        """Returns the reward of each text so far, (N,). A subclass that defines this gets a `potential`."""
        raise NotImplementedError(f"{type(self).__name__} must define `as_if_ended` to have a `potential`.")

    def _prepare_rows(self, values: Sequence[Any]) -> list[Prepared]:
        return [self._prepared(references) for references in self._references(values)]

    def _references(self, values: Sequence[Any]) -> list[tuple[str, ...]]:
        needs = f"The reward {self.__name__!r} needs a string or a non-empty list of strings in every row of "
        return texts_of_rows(values, f"{needs}{self.column!r}", " of the batch")


@dataclass(eq=False, repr=False, kw_only=True)
class SummedReward(ReferenceReward[Prepared]):
    """
    Base of the rewards whose statistics add up over rows, so that a sentence is a corpus of one row.

    The score of a corpus is the formula applied to the sum of [`statistics`] over its rows. So each formula, a
    function beside its class, takes `sums` of shape `(..., numbers)`, the statistics of single rows or their sums over
    corpora, and returns scores of shape `(...)`.
    """

    def sacrebleu_metric(self, metric_class: Any) -> Any:
        """Returns a sacrebleu metric with the options of this reward, for rows with varying numbers of references."""
        shared = [option.name for option in fields(ReferenceReward)]
        options = {own.name: getattr(self, own.name) for own in fields(self) if own.name not in shared}
        metric = metric_class(**options)
        metric.num_refs = -1
        return metric

    @abstractmethod
    def batch_statistics(self, completions: Sequence[str], prepared: Sequence[Prepared]) -> Sequence[Sequence[float]]:
        """Returns what each completion adds to the sums, given the result of `prepare` for its references."""

    @abstractmethod
    def from_statistics(self, sums: Array) -> Array:
        """Returns the rewards of statistics of shape `(rows, numbers)`."""

    def statistics(self, completions: Sequence[str], references: Sequence[Any]) -> list[list[float]]:
        """Returns what each row adds to the sums."""
        prepared = self._prepare_rows(references)
        return [list(row) for row in self.batch_statistics(completions, prepared)] if prepared else []

    def scores(self, completions: list[str], prompts: Prompts, columns: Columns) -> Scores:
        """Returns the reward of each text against its row of references."""
        statistics = self.statistics(completions, columns[self.column])
        return self.from_statistics(np.array(statistics, dtype=np.float64)).tolist() if statistics else []


def texts_of_rows(values: Iterable[Any], rule: str, where: str = "") -> list[tuple[str, ...]]:
    """Returns the texts of each row, a string or a list of strings; the error for other values starts with `rule`."""
    rows = []
    for row, value in enumerate(values):
        texts = (value,) if isinstance(value, str) else value
        if not isinstance(texts, (list, tuple)) or not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{rule}, got {value!r} in row {row}{where}. Correct or drop the row.")
        rows.append(tuple(texts))
    return rows


def divide(numerator: Array, denominator: Any, otherwise: Any) -> Array:
    """Returns the quotients, and `otherwise` where the denominator is 0."""
    quotients: Array = np.full(np.shape(numerator), otherwise, dtype=np.float64)
    np.divide(numerator, denominator, out=quotients, where=np.asarray(denominator) != 0)
    return quotients
