"""Rewards of the completion's own text: length, repetitions, a format."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lmrl.progress import Prefixes, Progress, as_if_ended, distinct_so_far, lengths_so_far
from lmrl.utils import check_at_least, check_in

from .algebra import Reward
from .base import Columns, Prompts, Scores
from .grams import ngrams

_UNITS = ("words", "characters")


class TextReward(Reward):
    """Base of the rewards of the text alone, whose `progress` is the reward as if the text ended here."""

    potential = 0

    def progress(self, *, prefixes: Sequence[Prefixes], prompts: Prompts = None, **columns: Any) -> Progress:
        """Returns the reward of each text so far, 0 for `None`. Subclasses may avoid scoring each one anew."""
        return as_if_ended(self, prefixes, prompts, self._checked(columns, len(prefixes)))


class LengthReward(TextReward):
    """Base of the rewards of a length, in words or characters."""

    unit: str

    def of_length(self, length: int) -> float:
        """Returns the reward of a text of the given length."""
        raise NotImplementedError(f"{type(self).__name__} must define `of_length`.")

    def scores(self, completions: list[str], prompts: Prompts, columns: Columns) -> Scores:
        """Returns the reward of the length of each text."""
        return [self.of_length(len(text.split() if self.unit == "words" else text)) for text in completions]

    def progress(self, *, prefixes: Sequence[Prefixes], **columns: Any) -> Progress:
        """Returns the reward of the length of each text so far."""
        return [[[self.of_length(length)] for length in lengths_so_far(each, self.unit)] for each in prefixes]


@dataclass(eq=False, repr=False)
class Length(LengthReward):
    """
    Returns how close the length of each completion is to a target, in [0, 1].

    `min(length, target) / max(length, target)`: 1 at the target, 1/2 at half and at twice the target, 0 for an empty
    completion. It never becomes flat, so that a completion far too long still gains by shortening.

    Args:
        target (`int`):
            Desired length, at least 1.
        unit (`str`, *optional*, defaults to `"words"`):
            `"words"` (separated by white space) or `"characters"`.
    """

    target: int
    unit: str = "words"
    name: str = "length"

    def __post_init__(self) -> None:
        check_at_least(1, target=self.target)
        check_in(_UNITS, unit=self.unit)
        super().__init__(self.name, signature=f"length|target:{self.target}|unit:{self.unit}")

    def of_length(self, length: int) -> float:
        """Returns the closeness of a length to the target."""
        return min(length, self.target) / max(length, self.target)


@dataclass(eq=False, repr=False)
class LengthPenalty(LengthReward):
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
            That of [`Length`].
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

    def of_length(self, length: int) -> float:
        """Returns the penalty of a length."""
        return max(min(self.max_length - length, 0) / self.slack, -1.0)


@dataclass(eq=False, repr=False)
class DistinctN(TextReward):
    """
    Returns the share of distinct n-grams among the n-grams of each completion, in [0, 1].

    `distinct / all`, of words separated by white space: 1 without repetitions, so also for a completion too short
    to have an n-gram, the empty one included. From "A Diversity-Promoting Objective Function for Neural Conversation
    Models" (Li et al., 2016, https://aclanthology.org/N16-1014), who count over all texts together; here each stands
    alone. The share of repeated n-grams, as a penalty, is this minus 1: as a reward it has the same gradient.

    Args:
        n (`int`, *optional*, defaults to `3`):
            Words of an n-gram, at least 1.
    """

    n: int = 3
    name: str = "distinct_n"

    def __post_init__(self) -> None:
        check_at_least(1, n=self.n)
        super().__init__(self.name, signature=f"distinct_n|n:{self.n}|split:whitespace")

    def progress(self, *, prefixes: Sequence[Prefixes], **columns: Any) -> Progress:
        """Returns the share of distinct n-grams of each text so far."""
        return [[[share] for share in distinct_so_far(each, self.n)] for each in prefixes]

    def scores(self, completions: list[str], prompts: Prompts, columns: Columns) -> Scores:
        """Returns the share of distinct n-grams of each text."""
        grams = [ngrams(text.split(), self.n) for text in completions]
        return [len(set(of_text)) / len(of_text) if of_text else 1.0 for of_text in grams]


_MODES = {"full": re.Pattern.fullmatch, "search": re.Pattern.search, "start": re.Pattern.match}


@dataclass(eq=False, repr=False)
class Format(TextReward):
    """
    Returns 1 if a regular expression matches the completion, else 0.

    Python's `re` may take exponential time over nested repetitions such as `(a+)+b`, and a policy finds the text that
    triggers it. Write patterns whose repetitions cannot match the same text in two ways, or run the reward in
    [`InWorkers`] with a `timeout`.

    Args:
        pattern (`str`):
            Regular expression of Python's `re`.
        mode (`str`, *optional*, defaults to `"full"`):
            Part that must match: `"full"` the complete completion, `"start"` its beginning, `"search"` any part of it.
            White space at the ends is dropped, except for `"search"`: many a completion begins with the space after
            its prompt.
        ignore_case (`bool`, *optional*, defaults to `False`):
            Whether case is ignored.
        dotall (`bool`, *optional*, defaults to `False`):
            Whether `.` matches a line break too.
    """

    pattern: str
    mode: str = "full"
    ignore_case: bool = False
    dotall: bool = False
    name: str = "format"

    def __post_init__(self) -> None:
        check_in(_MODES, mode=self.mode)
        flags = (re.IGNORECASE if self.ignore_case else re.NOFLAG) | (re.DOTALL if self.dotall else re.NOFLAG)
        try:
            self._compiled = re.compile(self.pattern, flags)
        except re.error as error:
            raise ValueError(f"`pattern` must be a regular expression, got {self.pattern!r} ({error}).") from error
        ends = "kept" if self.mode == "search" else "stripped"
        # The `repr` of a compiled pattern shows only its first 200 characters.
        shown = repr(self._compiled).removeprefix(f"re.compile({self.pattern!r:.200}")
        pattern = f"re.compile({self.pattern!r}{shown}"
        super().__init__(self.name, signature=f"format|mode:{self.mode}|ends:{ends}|pattern:{pattern}")

    def scores(self, completions: list[str], prompts: Prompts, columns: Columns) -> Scores:
        """Returns 1 or 0 for each text."""
        texts = completions if self.mode == "search" else [text.strip() for text in completions]
        return [float(_MODES[self.mode](self._compiled, text) is not None) for text in texts]
