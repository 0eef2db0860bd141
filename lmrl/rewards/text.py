"""Rewards that look at the completion alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from .algebra import Reward
from .grams import ngrams


def _lengths(texts: list[str], unit: str) -> list[int]:
    return [len(text.split() if unit == "words" else text) for text in texts]


def _check_unit(unit: str) -> None:
    if unit not in ("words", "characters"):
        raise ValueError(f"`unit` must be 'words' or 'characters', got {unit!r}.")


class Length(Reward):
    """
    Returns how close the length of each completion is to a target, in [0, 1].

    `min(length, target) / max(length, target)`: 1 at the target, 1/2 at half and at twice the target, 0 for an empty
    completion. It never becomes flat, so that a completion far too long still gains by shortening.

    Args:
        target (`int`):
            Desired length, at least 1.
        unit (`str`, *optional*, defaults to `"words"`):
            `"words"` (separated by white space) or `"characters"`.
        name (`str`, *optional*, defaults to `"length"`):
            Name under which trainers log it.

    Raises:
        ValueError: if `target` is less than 1, or for an unknown `unit`.
    """

    def __init__(self, target: int, unit: str = "words", name: str = "length"):
        if target < 1:
            raise ValueError(f"`target` must be at least 1, got {target}.")
        _check_unit(unit)
        super().__init__(name)
        self.target = target
        self.unit = unit

    @property
    def signature(self) -> str:
        """Target and unit."""
        return f"length|target:{self.target}|unit:{self.unit}"

    def scores(
        self, completions: list[str], prompts: Sequence[Any] | None, columns: Mapping[str, Sequence[Any]]
    ) -> list[float | None]:
        """Returns the closeness of each text to the target length."""
        lengths = _lengths(completions, self.unit)
        return [min(length, self.target) / max(length, self.target) for length in lengths]


class LengthPenalty(Reward):
    """
    Returns 0 for a completion of at most `max_length`, less the longer it is, and -1 from `max_length + slack` on.

    `clip((max_length - length) / slack, -1, 0)`: the soft overlong punishment of "DAPO: An Open-Source LLM
    Reinforcement Learning System at Scale" (Yu et al., 2025, https://arxiv.org/abs/2503.14476), of words or
    characters in place of tokens. There, `max_length + slack` is the longest completion that can be generated.

    Args:
        max_length (`int`):
            Length up to which nothing is taken off, at least 0.
        slack (`int`):
            Further length over which the penalty grows to its full size, at least 1.
        unit (`str`, *optional*, defaults to `"words"`):
            `"words"` (separated by white space) or `"characters"`.
        name (`str`, *optional*, defaults to `"length_penalty"`):
            Name under which trainers log it.

    Raises:
        ValueError: if `max_length` is less than 0 or `slack` less than 1, or for an unknown `unit`.
    """

    def __init__(self, max_length: int, slack: int, unit: str = "words", name: str = "length_penalty"):
        if max_length < 0:
            raise ValueError(f"`max_length` must be at least 0, got {max_length}.")
        if slack < 1:
            raise ValueError(f"`slack` must be at least 1, got {slack}.")
        _check_unit(unit)
        super().__init__(name, range=(-1.0, 0.0))
        self.max_length = max_length
        self.slack = slack
        self.unit = unit

    @property
    def signature(self) -> str:
        """Where the penalty begins, over what length it grows, and the unit."""
        return f"length_penalty|max:{self.max_length}|slack:{self.slack}|unit:{self.unit}"

    def scores(
        self, completions: list[str], prompts: Sequence[Any] | None, columns: Mapping[str, Sequence[Any]]
    ) -> list[float | None]:
        """Returns the penalty of each text."""
        room = [self.max_length - length for length in _lengths(completions, self.unit)]
        return [max(min(left, 0) / self.slack, -1.0) for left in room]


class DistinctN(Reward):
    """
    Returns the share of distinct n-grams among the n-grams of each completion, in [0, 1].

    `distinct / all`, of words separated by white space: 1 if nothing is said twice, so also for a completion too short
    to have an n-gram, the empty one included. From "A Diversity-Promoting Objective Function for Neural Conversation
    Models" (Li et al., 2016, https://aclanthology.org/N16-1014), who count over all texts together; here each stands
    alone. The share of repeated n-grams, as a penalty, is this minus 1: as a reward it has the same gradient.

    Args:
        n (`int`, *optional*, defaults to `3`):
            Words of an n-gram, at least 1.
        name (`str`, *optional*, defaults to `"distinct_n"`):
            Name under which trainers log it.

    Raises:
        ValueError: if `n` is less than 1.
    """

    def __init__(self, n: int = 3, name: str = "distinct_n"):
        if n < 1:
            raise ValueError(f"`n` must be at least 1, got {n}.")
        super().__init__(name)
        self.n = n

    @property
    def signature(self) -> str:
        """The words of an n-gram."""
        return f"distinct_n|n:{self.n}|split:whitespace"

    def scores(
        self, completions: list[str], prompts: Sequence[Any] | None, columns: Mapping[str, Sequence[Any]]
    ) -> list[float | None]:
        """Returns the share of distinct n-grams of each text."""
        grams = [ngrams(text.split(), self.n) for text in completions]
        return [len(set(of_text)) / len(of_text) if of_text else 1.0 for of_text in grams]
