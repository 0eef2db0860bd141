"""Evaluations as JSON files."""

import json
import math
import os
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..evaluate import Evaluation
from ..generation import Completion
from ..rows import data_signature
from ..scores import Score
from .wording import known

_PACKAGES = ("lmrl", "trl", "torch", "transformers", "tokenizers", "datasets", "accelerate", "peft", "sacrebleu")


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """
    Returns an evaluation as JSON values: scores with signatures and row scores, decoding, data, versions, and texts
    without their token ids. NaN and infinities, which JSON does not have, become `None`.
    """
    scores = {name: asdict(score) for name, score in evaluation.scores.items()}
    for score in scores.values():
        score["value"] = _finite(score["value"])
        score["row_scores"] = score["row_scores"] and [_finite(value) for value in score["row_scores"]]
    completions = [asdict(completion) for completion in evaluation.completions]
    for completion in completions:
        del completion["token_ids"]
    return {
        "scores": scores,
        "decoding": evaluation.decoding,
        "data": data_signature(evaluation.row_ids),
        "row_ids": evaluation.row_ids,
        "trained_on": evaluation.trained_on,
        "tables": evaluation.tables,
        "versions": package_versions(),
        "completions": completions,
    }


def write_json(path: str | os.PathLike[str], evaluation: Evaluation) -> None:
    """
    Writes an evaluation as given by [`to_json`], atomically: a reader never finds an incomplete file. Its folder is
    created if needed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(to_json(evaluation), indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    part.replace(path)


def read_json(path: str | os.PathLike[str]) -> Evaluation:
    """Returns the evaluation that [`write_json`] wrote, to compare it with another checkpoint; `None` becomes NaN."""
    data = json.loads(Path(path).read_text(encoding="utf-8"))
    scores = {}
    for name, score in data["scores"].items():
        row_scores = score["row_scores"]
        score["value"] = known(score["value"])
        score["row_scores"] = None if row_scores is None else [known(value) for value in row_scores]
        scores[name] = Score(**score)
    completions = [Completion(**completion) for completion in data["completions"]]
    optional: dict[str, Any] = {"row_ids": [], "trained_on": None, "tables": {}}  # of files of earlier versions
    others = {name: data.get(name, default) for name, default in optional.items()}
    return Evaluation(completions, scores, data["decoding"], **others)


def package_versions() -> dict[str, str]:
    """Returns the versions of Python and of the installed packages on which a score or a model depends."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue  # optional, or run from a checkout that is not installed
    return versions


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
