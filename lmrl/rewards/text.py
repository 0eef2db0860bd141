"""Rewards that look at the completion alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from .base import Reward


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
        if unit not in ("words", "characters"):
            raise ValueError(f"`unit` must be 'words' or 'characters', got {unit!r}.")
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
        lengths = [len(text.split() if self.unit == "words" else text) for text in completions]
        return [min(length, self.target) / max(length, self.target) for length in lengths]
