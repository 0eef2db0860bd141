"""Brings evaluations of the same rows into the same order."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .evaluate import Evaluation


def matched(evaluations: Mapping[str, Evaluation]) -> dict[str, Evaluation]:
    """
    Returns the evaluations, all with their rows in the order of the first one's.

    An evaluation without row ids (from an old file) is assumed to have its rows in that order already.

    Raises:
        `ValueError`: if two evaluations are of different rows.
    """
    ids = next((evaluation.row_ids for evaluation in evaluations.values()), [])
    found = {}
    for label, evaluation in evaluations.items():
        known = bool(ids) and bool(evaluation.row_ids)
        if known and sorted(evaluation.row_ids) != sorted(ids):
            common = len({*ids} & {*evaluation.row_ids})
            raise ValueError(
                f"`evaluations` must be of the same rows, got {len(evaluation.row_ids)} rows of {label!r}, of which "
                f"{common} are among the {len(ids)} of {next(iter(evaluations))!r}. Evaluate both on the same data."
            )
        found[label] = _reordered(evaluation, ids) if known and evaluation.row_ids != ids else evaluation
    return found


def _reordered(evaluation: Evaluation, ids: list[str]) -> Evaluation:
    old_index = {name: index for index, name in enumerate(evaluation.row_ids)}
    order = [old_index[name] for name in ids]
    new_index = {old: new for new, old in enumerate(order)}
    completions = [replace(completion, row=new_index[completion.row]) for completion in evaluation.completions]
    completions.sort(key=lambda completion: (completion.row, completion.sample))
    scores = {}
    for name, score in evaluation.scores.items():
        changed: dict[str, Any] = {
            key: values and [values[index] for index in order]
            for key, values in vars(score).items()
            if key in ("row_scores", "statistics", "sample_scores")
        }
        scores[name] = replace(score, **changed)
    return replace(evaluation, completions=completions, scores=scores, row_ids=ids)
