"""What all rewards that compare a completion with references share, and the simplest of them."""

import functools
import re
import string
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from .base import Reward

Prepared = TypeVar("Prepared")


def ngrams(tokens: Sequence[str], order: int) -> list[tuple[str, ...]]:
    """Returns the n-grams of `tokens`, in order and with repetitions."""
    return list(zip(*[tokens[start:] for start in range(order)], strict=False))  # the shortest slice ends it


def occurrences(grams: Sequence[Hashable]) -> set[Hashable]:
    """
    Returns a set with one member per occurrence: the gram itself, and `(gram, k)` for its k-th repetition.

    The operations on multisets that overlap metrics need become those of sets, which run in C: the size of an
    intersection is the number of matches clipped to the smaller count, a union has the larger count of each gram.
    """
    members = set(grams)
    if len(members) < len(grams):
        counts = Counter(grams)
        members.update((gram, k) for gram, count in counts.items() if count > 1 for k in range(1, count))
    return members


class ReferenceReward(Reward, Generic[Prepared]):
    """
    Base of the rewards that compare a completion with one or more references.

    What depends on the references alone is computed once by `prepare` and kept for the `cache_size` rows used last, as
    the completions of a prompt share their references. The cache is not pickled.

    Args:
        name (`str`):
            Name under which trainers log it.
        column (`str`):
            Dataset column with the references: in each row a string or a list of strings.
        cache_size (`int`):
            Rows whose prepared references are kept.
    """

    def __init__(self, name: str, column: str, cache_size: int):
        super().__init__(name, columns=(column,))
        if cache_size < 1:
            raise ValueError(f"`cache_size` must be at least 1, got {cache_size}.")
        self.column = column
        self.cache_size = cache_size
        self._start_cache()

    def _start_cache(self) -> None:
        self._prepared = functools.lru_cache(maxsize=self.cache_size)(self.prepare)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_prepared"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._start_cache()

    @abstractmethod
    def prepare(self, references: tuple[str, ...]) -> Prepared:
        """Returns what `score` needs to know of the references of a row."""

    @abstractmethod
    def score(self, completion: str, prepared: Prepared) -> float:
        """Returns the reward of a completion, given what `prepare` made of its references."""

    def scores(
        self, completions: list[str], prompts: Sequence[Any] | None, columns: Mapping[str, Sequence[Any]]
    ) -> list[float | None]:
        """Returns the reward of each text against its row of references."""
        references = [self._references(row, value) for row, value in enumerate(columns[self.column])]
        return [self.score(text, self._prepared(refs)) for text, refs in zip(completions, references, strict=True)]

    def _references(self, row: int, value: Any) -> tuple[str, ...]:
        if isinstance(value, str):
            return (value,)
        if isinstance(value, (list, tuple)) and value and all(isinstance(reference, str) for reference in value):
            return tuple(value)
        raise ValueError(
            f"The reward {self.__name__!r} needs a string or a non-empty list of strings in every row of "
            f"{self.column!r}, but row {row} of the batch has {value!r}. Correct or drop the row."
        )


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _squad(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


_NORMALIZATIONS: dict[str, Callable[[str], str]] = {"strip": str.strip, "squad": _squad}


class ExactMatch(ReferenceReward[frozenset[str]]):
    """
    Returns 1 if the completion equals any of the references after normalisation, else 0.

    Args:
        normalize (`str`, *optional*, defaults to `"strip"`):
            `"strip"`: white space at both ends is dropped. `"squad"`: case, ASCII punctuation, the articles a, an and
            the, and differences of white space are dropped, as in the evaluation of "SQuAD: 100,000+ Questions for
            Machine Comprehension of Text" (Rajpurkar et al., 2016, https://arxiv.org/abs/1606.05250).
        column (`str`, *optional*, defaults to `"references"`):
            Dataset column with a string or a list of strings per row.
        name (`str`, *optional*, defaults to `"exact_match"`):
            Name under which trainers log it.
        cache_size (`int`, *optional*, defaults to `1024`):
            Rows whose prepared references are kept.

    Raises:
        ValueError: if `normalize` is none of the two.
    """

    def __init__(
        self,
        normalize: str = "strip",
        column: str = "references",
        name: str = "exact_match",
        cache_size: int = 1024,
    ):
        if normalize not in _NORMALIZATIONS:
            raise ValueError(f"`normalize` must be one of {sorted(_NORMALIZATIONS)}, got {normalize!r}.")
        super().__init__(name, column, cache_size)
        self.normalize = normalize

    @property
    def signature(self) -> str:
        """How texts are normalised."""
        return f"exact_match|nrefs:var|normalize:{self.normalize}"

    def prepare(self, references: tuple[str, ...]) -> frozenset[str]:
        """Returns the normalised references of a row."""
        return frozenset(map(_NORMALIZATIONS[self.normalize], references))

    def score(self, completion: str, prepared: frozenset[str]) -> float:
        """Returns 1 or 0."""
        return float(_NORMALIZATIONS[self.normalize](completion) in prepared)
