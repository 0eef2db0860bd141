"""Evaluations to be read: tables for people, JSON for programs."""

import json
import math
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..comparison import Columns, Compared, Difference, bootstrap_interval, compare_all
from ..encoding import Prompt
from ..evaluate import Evaluation
from ..generation import Completion
from ..metrics import Score
from ..rows import data_signature
from .wording import number, p_value, prompt_text, with_interval

if TYPE_CHECKING:
    from rich.table import Table

_PACKAGES = ("lmrl", "trl", "torch", "transformers", "tokenizers", "datasets", "accelerate", "peft", "sacrebleu")


def scores_table(columns: Columns, compared: Compared | None = None) -> "Table":
    """
    Returns a table of metrics (rows) by checkpoints (columns), the first of which is the baseline.

    Every other checkpoint has a column of differences from the baseline too, with the interval of the paired
    bootstrap, and a star where its p-value by approximate randomization, corrected for the number of metrics (Holm),
    is below 0.05. One or two checkpoints have intervals of their values and that p-value as well.

    Args:
        columns (`dict` of `dict` of [`Score`]):
            Scores by metric, by the label of the checkpoint.
        compared (`dict`, *optional*):
            What [`compare_all`] gives of them, if that is there already.

    Returns:
        `rich.table.Table`; [`as_text`] makes it a string.

    Raises:
        `ValueError`: if there is no checkpoint, or two were scored on different numbers of rows.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if not columns:
        raise ValueError("There are 0 checkpoints, but a table needs at least 1.")
    compared = compare_all(columns) if compared is None else compared
    baseline = next(iter(columns))
    narrow = len(columns) > 2
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("metric")
    for label in columns:
        table.add_column(Text(label if narrow else f"{label} [95% CI]"), justify="right")
    for label in compared:
        table.add_column(Text(f"{label} - {baseline} [95% CI]"), justify="right")
    if compared:
        table.caption = "* p (Holm) below 0.05; intervals of the paired bootstrap"
        if not narrow:
            table.add_column("p (Holm)", justify="right")
            table.caption += "; p: approximate randomization, corrected"
    for name in dict.fromkeys(name for scores in columns.values() for name in scores):
        found = [metrics.get(name) for metrics in compared.values()]
        cells = [_value(scores.get(name), alone=narrow) for scores in columns.values()]
        cells += [_difference(difference) for difference in found]
        if compared and not narrow:
            cells += [p_value(difference.p_corrected) if difference else "" for difference in found]
        # Text, not str: rich would read "[...]" as markup.
        table.add_row(Text(name), *map(Text, cells))
    return table


def samples_table(
    prompts: Sequence[Prompt],
    references: Sequence[Sequence[str]] | None,
    completions: Mapping[str, Sequence[str]],
    rewards: Mapping[str, Sequence[float | str | None]] | None = None,
    n: int = 5,
) -> "Table":
    """
    Returns a table of the first `n` prompts with a reference and the text of each checkpoint under it.

    Args:
        prompts (list of `str`, or list of lists of messages):
            The prompts.
        references (list of lists of `str`, *optional*):
            References of each prompt; the first is shown.
        completions (`dict` of lists of `str`):
            One text per prompt, by the label of the checkpoint.
        rewards (`dict` of lists of `float` or `str`, *optional*):
            One reward per prompt, by the same labels; text is shown as it is.
        n (`int`, *optional*, defaults to `5`):
            How many prompts.

    Returns:
        `rich.table.Table`; [`as_text`] makes it a string.

    Raises:
        `ValueError`: if a checkpoint has another number of texts than there are prompts.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    for label, texts in completions.items():
        if len(texts) != len(prompts):
            raise ValueError(f"{label!r} has {len(texts)} texts for {len(prompts)} prompts: give one per prompt.")
    table = Table("", "text", box=box.SIMPLE_HEAD)
    if rewards:
        table.add_column("reward", justify="right")
    for row in range(min(n, len(prompts))):
        lines = [("prompt", prompt_text(prompts[row]), "")]
        if references is not None:
            lines.append(("reference", references[row][0], ""))
        for label, texts in completions.items():
            reward = rewards[label][row] if rewards and label in rewards else None
            lines.append((label, texts[row].strip(), _cell(reward)))
        for line in lines:
            table.add_row(*map(Text, line if rewards else line[:2]), end_section=line is lines[-1])
    return table


def as_text(table: "Table", width: int = 120) -> str:
    """
    Returns the table as plain text without colours: as wide as it needs, at most `width`, long texts wrapped.

    Args:
        table (`rich.table.Table`):
            The table.
        width (`int`, *optional*, defaults to `120`):
            Most characters in a line.

    Returns:
        `str`, without trailing spaces in its lines.
    """
    from io import StringIO

    from rich.console import Console

    console = Console(file=StringIO(), width=width, force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()).strip("\n")


def show(table: "Table") -> None:
    """Prints the table: in colours and as wide as the terminal, or as plain text where there is none."""
    from rich.console import Console

    console = Console(file=sys.stdout)
    if console.is_terminal:
        console.print(table)
    else:
        print(as_text(table))


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """
    Returns the evaluation as JSON values: scores with signatures and row scores, decoding, data, versions, texts.

    Args:
        evaluation ([`Evaluation`]):
            What was measured.

    Returns:
        `dict`; a number that is not finite becomes `None`, which JSON has.
    """
    scores = {name: asdict(score) for name, score in evaluation.scores.items()}
    for score in scores.values():
        score["value"] = _finite(score["value"])
        score["row_scores"] = score["row_scores"] and [_finite(value) for value in score["row_scores"]]
    return {
        "scores": scores,
        "decoding": evaluation.decoding,
        "data": data_signature(evaluation.row_ids),
        "row_ids": evaluation.row_ids,
        "versions": package_versions(),
        "completions": [asdict(completion) for completion in evaluation.completions],
    }


def write_json(path: str | os.PathLike[str], evaluation: Evaluation) -> None:
    """
    Writes the evaluation as [`to_json`] gives it, in one go: a reader never sees half a file.

    Args:
        path (`str` or `os.PathLike`):
            The file; its folder is made if need be.
        evaluation ([`Evaluation`]):
            What was measured.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(to_json(evaluation), indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    part.replace(path)


def read_json(path: str | os.PathLike[str]) -> Evaluation:
    """
    Returns the evaluation that [`write_json`] wrote, for a comparison with a later checkpoint.

    Args:
        path (`str` or `os.PathLike`):
            The file.

    Returns:
        [`Evaluation`], `None` read as NaN.
    """
    data = json.loads(Path(path).read_text(encoding="utf-8"))
    scores = {}
    for name, score in data["scores"].items():
        rows = score["row_scores"]
        score["value"] = _or_nan(score["value"])
        score["row_scores"] = None if rows is None else [_or_nan(value) for value in rows]
        scores[name] = Score(**score)
    completions = [Completion(**completion) for completion in data["completions"]]
    return Evaluation(completions, scores, data["decoding"], data.get("row_ids", []))


def _value(score: Score | None, *, alone: bool) -> str:
    if score is None:
        return ""
    interval = bootstrap_interval(score)
    return number(score.value) if alone else with_interval(score.value, interval.low, interval.high, sign="")


def _difference(difference: Difference | None) -> str:
    if difference is None:
        return ""
    return with_interval(*difference.interval) + ("*" if difference.significant else " ")


def _cell(value: float | str | None) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else number(value)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def package_versions() -> dict[str, str]:
    """Returns the versions of Python and of what a score or a model depends on, as far as it is installed."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue  # optional, or run from a checkout that is not installed
    return versions
