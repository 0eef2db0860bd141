"""Evaluations as JSON files."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lmrl.display.wording import known
from lmrl.rollouts import finite, replace_file
from lmrl.utils import shorten
from lmrl.version import package_versions

from ..evaluate import Evaluation
from ..generation import Completion
from ..rows import data_signature
from ..scores import Score


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """
    Returns an evaluation as JSON values: scores with signatures and row scores, decoding, data, versions, and
    completions without token ids. NaN and infinities in scores, which JSON does not have, become `None`.
    """
    completions = [asdict(completion) for completion in evaluation.completions]
    for completion in completions:
        del completion["token_ids"]
    return {
        "scores": finite({name: asdict(score) for name, score in evaluation.scores.items()}),
        "decoding": evaluation.decoding,
        "data": data_signature(evaluation.row_ids),
        "row_ids": evaluation.row_ids,
        "trained_on": evaluation.trained_on,
        "tables": evaluation.tables,
        "numbers": evaluation.numbers,
        "versions": package_versions(),
        "completions": completions,
    }


def write_json(path: str | os.PathLike[str], evaluation: Evaluation) -> None:
    """Writes the result of [`to_json`] atomically: a reader never finds an incomplete file. Creates the folder."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(to_json(evaluation), indent=1, ensure_ascii=False, allow_nan=False)
    replace_file(Path(path), text.encode(errors="backslashreplace"))  # a lone surrogate becomes its JSON escape


def read_json(path: str | os.PathLike[str]) -> Evaluation:
    """
    Returns the evaluation in a file of [`write_json`], to compare it with another one; `None` becomes NaN.

    Raises:
        `ValueError`: if the file contains no evaluation.
    """
    content = Path(path).read_bytes()
    try:
        data = json.loads(content)
        scores = {}
        for name, score in data["scores"].items():
            by_row = {key: score.get(key) and known(score[key]) for key in ("row_scores", "sample_scores")}
            scores[name] = Score(**{**score, "value": known(score["value"]), **by_row})
        completions = [Completion(**completion) for completion in data["completions"]]
        decoding = data["decoding"]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{str(path)!r} must have an evaluation that lmrl wrote, got {shorten(content.decode(errors='replace'))}. "
            "Evaluate it again."
        ) from error
    optional: dict[str, Any] = {"row_ids": [], "trained_on": None, "tables": {}, "numbers": {}}  # for old files
    others = {name: data.get(name, default) for name, default in optional.items()}
    return Evaluation(completions, scores, decoding, **others)
