"""Evaluations of the same rows, found again by their ids where the order differs."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from .evaluate import Evaluation
from .scores import Score

T = TypeVar("T")


def matched(evaluations: Mapping[str, Evaluation]) -> dict[str, Evaluation]:
    """
    Returns the evaluations with the rows of all in the order of the first.

    An evaluation that does not know its rows (an old file) is taken to have them in that order.

    Args:
        evaluations (`dict` of [`Evaluation`]):
            What was measured, by label.

    Raises:
        `ValueError`: if two are of different rows.
    """
    ids = next((evaluation.row_ids for evaluation in evaluations.values()), [])
    found = {}
    for label, evaluation in evaluations.items():
        known = bool(ids) and bool(evaluation.row_ids)
        if known and sorted(evaluation.row_ids) != sorted(ids):
            both = len({*ids} & {*evaluation.row_ids})
            raise ValueError(
                f"{label!r} has {len(evaluation.row_ids)} rows, of which {both} are among the {len(ids)} of "
                f"{next(iter(evaluations))!r}, but a comparison needs the same rows. Evaluate both on the same data."
            )
        found[label] = _reordered(evaluation, ids) if known and evaluation.row_ids != ids else evaluation
    return found


def _reordered(evaluation: Evaluation, ids: list[str]) -> Evaluation:
    old = {name: index for index, name in enumerate(evaluation.row_ids)}
    order = [old[name] for name in ids]
    new = {index: place for place, index in enumerate(order)}
    completions = [replace(completion, row=new[completion.row]) for completion in evaluation.completions]
    completions.sort(key=lambda completion: (completion.row, completion.sample))
    scores = {name: _score(score, order) for name, score in evaluation.scores.items()}
    return replace(evaluation, completions=completions, scores=scores, row_ids=ids)


def _score(score: Score, order: list[int]) -> Score:
    return replace(score, row_scores=_picked(score.row_scores, order), statistics=_picked(score.statistics, order))


def _picked(values: list[T] | None, order: list[int]) -> list[T] | None:
    return None if values is None else [values[index] for index in order]
