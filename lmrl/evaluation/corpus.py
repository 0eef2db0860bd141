"""The completions that metrics are computed of, with their references and prompts."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Corpus:
    """
    Completions of held-out rows; every list has one entry per completion.

    Args:
        texts (list of `str`):
            The completions.
        references (list of lists of `str`, *optional*):
            One or more references of each; rows may have different numbers of them.
        rows (list of `int`):
            Index of each completion's prompt: samples of one prompt have the same.
        lengths (list of `int`):
            Length of each completion, in `length_unit`.
        finished (list of `bool`):
            Whether each ended with an end-of-sequence token.
        length_unit (`str`, *optional*, defaults to `"tokens|eos:included"`):
            Unit of the lengths, as it stands in the signature.

    Raises:
        `ValueError`: if there are no completions, the numbers of entries differ, or a row has no reference.
    """

    texts: Sequence[str]
    references: Sequence[Sequence[str]] | None
    rows: Sequence[int]
    lengths: Sequence[int]
    finished: Sequence[bool]
    length_unit: str = "tokens|eos:included"

    def __post_init__(self) -> None:
        if not self.texts:
            raise ValueError("`completions` must have at least 1 row, got 0. Check the split and its filters.")
        for name in ("references", "rows", "lengths", "finished"):
            entries = getattr(self, name)
            if entries is not None and len(entries) != len(self.texts):
                raise ValueError(
                    f"`{name}` must have one entry per completion, got {len(entries)} for {len(self.texts)}."
                )
        for row, references in enumerate(self.references or []):
            if isinstance(references, str) or not references:
                raise ValueError(
                    f"`references` of row {row} must be a list of at least 1 text, got {references!r}. "
                    "Wrap a single reference in a list, and leave out rows without one."
                )

    def references_by_prompt(self) -> list[Sequence[str]]:
        """Returns the references of each prompt once, whatever the number of its samples."""
        return list(dict(zip(self.rows, self.references or [], strict=True)).values())
