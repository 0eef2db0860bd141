"""The end of a recipe: checkpoints side by side, on the screen and in files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .evaluate import Evaluation, Row
from .report import samples_table, scores_table, show, write_json

if TYPE_CHECKING:
    from datasets import Dataset


def report(
    evaluations: Mapping[str, Evaluation], rows: "Dataset | Sequence[Row]", folder: str | Path, samples: int = 5
) -> None:
    """
    Prints scores and some completions of each checkpoint side by side, and writes `<folder>/<label>.json` for each.

    Args:
        evaluations (`dict` of [`Evaluation`]):
            What was measured, by label; the first is the baseline.
        rows (`datasets.Dataset` or list of `dict`):
            The rows that were completed.
        folder (`str` or `Path`):
            Where the files go.
        samples (`int`, *optional*, defaults to `5`):
            Prompts whose completions are shown.
    """
    for label, evaluation in evaluations.items():
        write_json(Path(folder) / f"{label}.json", evaluation)
    shown = [rows[i] for i in range(min(samples, len(rows)))]
    if shown:
        texts = {label: _first_texts(evaluation, len(shown)) for label, evaluation in evaluations.items()}
        rewards = {label: _first_rewards(evaluation, len(shown)) for label, evaluation in evaluations.items()}
        references = [row["references"] for row in shown] if shown[0].get("references") else None
        show(samples_table([row["prompt"] for row in shown], references, texts, rewards, n=len(shown)))
    show(scores_table({label: evaluation.scores for label, evaluation in evaluations.items()}))
    print(f"Scores and completions: {', '.join(str(Path(folder) / f'{label}.json') for label in evaluations)}")


def _first_texts(evaluation: Evaluation, rows: int) -> list[str]:
    return [completion.text for completion in evaluation.completions if completion.sample == 0][:rows]


def _first_rewards(evaluation: Evaluation, rows: int) -> list[str]:
    """Returns the rewards of the first rows, one to a line: `bleu 0.43`."""
    named = [(name, score.row_scores) for name, score in evaluation.scores.items() if name.startswith("reward/")]
    return [
        "\n".join(f"{name.removeprefix('reward/')} {scores[row]:.2f}" for name, scores in named if scores is not None)
        for row in range(rows)
    ]
