"""Rewards of the length and the repetitions of a completion."""

from dataclasses import dataclass

from lmrl.utils import check_at_least, check_in

from .algebra import Reward
from .base import Columns, Prompts, Scores
from .grams import ngrams

_UNITS = ("words", "characters")


def _lengths(texts: list[str], unit: str) -> list[int]:
    return [len(text.split() if unit == "words" else text) for text in texts]


@dataclass(eq=False, repr=False)
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
        ValueError: If `target` is less than 1, or for an unknown `unit`.
    """

    target: int
    unit: str = "words"
    name: str = "length"

    def __post_init__(self) -> None:
        check_at_least(1, target=self.target)
        check_in(_UNITS, unit=self.unit)
        super().__init__(self.name, signature=f"length|target:{self.target}|unit:{self.unit}")

    def scores(self, completions: list[str], prompts: Prompts, columns: Columns) -> Scores:
        """Returns the closeness of each text to the target length."""
        lengths = _lengths(completions, self.unit)
        return [min(length, self.target) / max(length, self.target) for length in lengths]


@dataclass(eq=False, repr=False)
class LengthPenalty(Reward):
    """
    Returns 0 for a completion of at most `max_length`, less the longer it is, and -1 from `max_length + slack` on.

    `clip((max_length - length) / slack, -1, 0)`: the soft overlong punishment of "DAPO: An Open-Source LLM
    Reinforcement Learning System at Scale" (Yu et al., 2025, https://arxiv.org/abs/2503.14476), of words or
    characters in place of tokens. There, `max_length + slack` is the longest completion that can be generated.

    Args:
        max_length (`int`):
            Length up to which the reward is 0, at least 0.
        slack (`int`):
            Further length over which the penalty grows to its full size, at least 1.
        unit (`str`, *optional*, defaults to `"words"`):
            `"words"` (separated by white space) or `"characters"`.
        name (`str`, *optional*, defaults to `"length_penalty"`):
            Name under which trainers log it.

    Raises:
        ValueError: If `max_length` is less than 0 or `slack` less than 1, or for an unknown `unit`.
    """

    max_length: int
    slack: int
    unit: str = "words"
    name: str = "length_penalty"

    def __post_init__(self) -> None:
        check_at_least(0, max_length=self.max_length)
        check_at_least(1, slack=self.slack)
        check_in(_UNITS, unit=self.unit)
        signature = f"length_penalty|max:{self.max_length}|slack:{self.slack}|unit:{self.unit}"
        super().__init__(self.name, range=(-1.0, 0.0), signature=signature)

    def scores(self, completions: list[str], prompts: Prompts, columns: Columns) -> Scores:
        """Returns the penalty of each text."""
        room = [self.max_length - length for length in _lengths(completions, self.unit)]
        return [max(min(left, 0) / self.slack, -1.0) for left in room]


@dataclass(eq=False, repr=False)
class DistinctN(Reward):
    """
    Returns the share of distinct n-grams among the n-grams of each completion, in [0, 1].

    `distinct / all`, of words separated by white space: 1 without repetitions, so also for a completion too short
    to have an n-gram, the empty one included. From "A Diversity-Promoting Objective Function for Neural Conversation
    Models" (Li et al., 2016, https://aclanthology.org/N16-1014), who count over all texts together; here each stands
    alone. The share of repeated n-grams, as a penalty, is this minus 1: as a reward it has the same gradient.

    Args:
        n (`int`, *optional*, defaults to `3`):
            Words of an n-gram, at least 1.
        name (`str`, *optional*, defaults to `"distinct_n"`):
            Name under which trainers log it.

    Raises:
        ValueError: If `n` is less than 1.
    """

    n: int = 3
    name: str = "distinct_n"

    def __post_init__(self) -> None:
        check_at_least(1, n=self.n)
        super().__init__(self.name, signature=f"distinct_n|n:{self.n}|split:whitespace")

    def scores(self, completions: list[str], prompts: Prompts, columns: Columns) -> Scores:
        """Returns the share of distinct n-grams of each text."""
        grams = [ngrams(text.split(), self.n) for text in completions]
        return [len(set(of_text)) / len(of_text) if of_text else 1.0 for of_text in grams]
