"""Corpora of completions, and their scores with the statistics of each row from which they are computed."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from lmrl.display.cards import card
from lmrl.display.wording import direction, number

from .statistics import pool

T = TypeVar("T")


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
            Index of each completion's prompt; all samples of a prompt have the same.
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
        check_references(self.references or [])

    def references_by_prompt(self) -> list[Sequence[str]]:
        """Returns the references of each prompt once, whatever the number of its samples."""
        return list(dict(zip(self.rows, self.references or [], strict=True)).values())


def check_references(references: Iterable[Sequence[str]]) -> None:
    """Raises a `ValueError` for the first row whose references are not a list of at least one."""
    for row, texts in enumerate(references):
        if isinstance(texts, str) or not texts:
            raise ValueError(
                f"`references` of row {row} must be a list of at least 1 text, got {texts!r}. "
                "Wrap a single reference in a list, and leave out rows without one."
            )


@dataclass(frozen=True)
class Score:
    """
    A metric's value over a corpus.

    Args:
        name (`str`):
            Name of the metric.
        value (`float`):
            Its value over the corpus; NaN where no row has one.
        signature (`str`):
            Settings that define what was computed: tokenization, case, version and the like.
        row_scores (list of `float`, *optional*):
            The metric of each row by itself, NaN where it does not apply; `None` if single rows have none. Their mean
            is not `value` if that is computed from summed statistics.
        higher_is_better (`bool`, *optional*):
            The direction, or `None` if neither is better by itself (length).
        pooling (`str`, *optional*):
            Name of the function that computes `value` from the summed statistics, a key of
            [`lmrl.evaluation.statistics.POOLINGS`]. `None` if there is no such sum (distinct n-grams), and so no
            interval and no test.
        statistics (list of lists of `float`, *optional*):
            The summands of each row. Intervals and tests resample these, without scoring texts again.
        sample_scores (list of lists of `float`, *optional*):
            If prompts have several samples, the score of each sample, by prompt; their means are the `row_scores`.
    """

    name: str
    value: float
    signature: str
    row_scores: list[float] | None = field(repr=False)
    higher_is_better: bool | None
    pooling: str | None = None
    statistics: list[list[float]] | None = field(default=None, repr=False)
    sample_scores: list[list[float]] | None = field(default=None, repr=False)

    def _repr_html_(self) -> str:
        facts = {"signature": self.signature}
        if self.row_scores is not None:
            facts["rows"] = f"{len(self.row_scores):,}"
        return card(self.name, lead=f"{number(self.value)} {direction(self.higher_is_better)}", facts=facts)


def mean_score(name: str, signature: str, values: Iterable[float | None], higher_is_better: bool | None) -> Score:
    """
    Returns the score whose value is the mean of its row scores, NaN if no row has one.

    Args:
        name, signature, higher_is_better:
            As in [`Score`].
        values (list of `float` or `None`):
            One per row; `None` does not count, its row score is NaN. If one is infinite there are no statistics.
    """
    row_scores = [math.nan if value is None else float(value) for value in values]
    applicable = [value for value in row_scores if not math.isnan(value)]
    if any(map(math.isinf, applicable)):  # with both signs the mean is NaN
        return Score(name, sum(applicable) / len(applicable), signature, row_scores, higher_is_better)
    statistics = [[0.0, 0.0] if math.isnan(value) else [value, 1.0] for value in row_scores]
    value = math.fsum(applicable) / len(applicable) if applicable else math.nan
    return Score(name, value, signature, row_scores, higher_is_better, "mean", statistics)


def pooled_score(
    name: str,
    signature: str,
    pooling: str,
    statistics: list[list[float]],
    row_scores: list[float] | None,
    higher_is_better: bool | None,
) -> Score:
    """Returns the score computed from the summed statistics of its rows; the arguments are as in [`Score`]."""
    return Score(name, pool(pooling, statistics), signature, row_scores, higher_is_better, pooling, statistics)


def length_unit(scores: Mapping[str, Score]) -> str:
    """Returns the unit of the completions' lengths: `words` if counted without a tokenizer, else `tokens`."""
    return "words" if "length" in scores and scores["length"].signature == "unit:words" else "tokens"


def per_prompt(score: Score, num_samples: int) -> Score:
    """
    Returns the score with the samples of each prompt as one row: statistics summed, row scores averaged.

    Prompts are independent of each other, samples of one prompt are not; resampling prompts takes that into account
    ("Bootstrap-Based Improvements for Inference with Clustered Errors", Cameron, Gelbach and Miller, 2008,
    https://doi.org/10.1162/rest.90.3.414). The value does not change: it is pooled over all samples.

    The rows of `score` are `num_samples` completions of the first prompt, then those of the second, and so on.
    """
    if num_samples == 1:
        return score
    changed = score
    if score.row_scores is not None:
        samples = _in_groups(score.row_scores, num_samples)
        means = [mean_score("", "", values, None).value for values in samples]
        changed = replace(changed, row_scores=means, sample_scores=samples)
    if score.statistics is not None:
        parts = _in_groups(score.statistics, num_samples)
        sums = [[math.fsum(column) for column in zip(*rows, strict=True)] for rows in parts]
        changed = replace(changed, statistics=sums)
    return changed


def _in_groups(values: list[T], size: int) -> list[list[T]]:
    return [values[i : i + size] for i in range(0, len(values), size)]
