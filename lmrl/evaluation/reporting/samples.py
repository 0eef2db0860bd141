"""Selection and comparison of the completions that the report shows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..evaluate import Evaluation
from ..generation import Completion
from ..rows import Row
from .findings import is_rewarded
from .worddiff import Piece, word_diff
from .wording import prompt_text

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class RewardChange:
    """
    The change of a reward from the baseline to a checkpoint.

    Args:
        reward (`str`):
            Name of the reward.
        label (`str`):
            Label of the checkpoint.
        by_row (list of `float`):
            Change of each row; NaN where it is not known.
    """

    reward: str
    label: str
    by_row: list[float]


@dataclass(frozen=True)
class Text:
    """
    A completion of a checkpoint.

    Args:
        label (`str`):
            Label of the checkpoint.
        pieces (list of pairs of `str` and `bool`):
            The text in pieces, with whether a piece is missing in the text it was compared with.
        rewards (list of triples of `str`, `float` and `float`):
            Name, value and change of each reward; a change that is not known is 0.
        length (`int`):
            Number of tokens.
        finished (`bool`):
            Whether it ended with an end token.
    """

    label: str
    pieces: list[Piece]
    rewards: list[tuple[str, float, float]]
    length: int
    finished: bool


@dataclass(frozen=True)
class Sample:
    """
    A prompt with its references and the completion of each checkpoint.

    Args:
        row (`int`):
            Index of the row.
        prompt (`str`):
            The prompt as text.
        references (list of `str`):
            References, maybe none.
        changes (list of `float`):
            Changes of the rewards, in the order of [`reward_changes`].
        texts (list of [`Text`]):
            Completions, the baseline's first.
    """

    row: int
    prompt: str
    references: list[str]
    changes: list[float]
    texts: list[Text]


def reward_changes(evaluations: Mapping[str, Evaluation], rewarded: Sequence[str]) -> list[RewardChange]:
    """
    Returns the change of each reward of each checkpoint from the baseline, those trained on first.

    Args:
        evaluations (`dict` of [`Evaluation`]):
            Evaluations by label; the first is the baseline.
        rewarded (list of `str`):
            Names of the rewards trained on.
    """
    (_, base), *others = evaluations.items()
    names = [name for name in base.scores if name.startswith("reward/")]
    changes = []
    for name in sorted(names, key=lambda name: not is_rewarded(name, rewarded)):
        for label, other in others:
            before = base.scores[name].row_scores
            after = other.scores[name].row_scores if name in other.scores else None
            if before and after and len(before) == len(after):
                by_row = [new - old for old, new in zip(before, after, strict=True)]
                changes.append(RewardChange(name.removeprefix("reward/"), label, by_row))
    return changes


def rows_of_all(evaluations: Mapping[str, Evaluation], count: int) -> list[int]:
    """Returns which of the first `count` rows were completed by every checkpoint."""
    complete = set.intersection(*(set(_first_completions(evaluation)) for evaluation in evaluations.values()))
    return [row for row in range(count) if row in complete]


def select_rows(rows: Sequence[int], changes: Sequence[RewardChange], most: int) -> list[int]:
    """
    Returns the rows to show, in their order.

    If there are more than `most`, half of them are the first, a quarter those whose reward rose most, and a quarter
    those whose reward fell most; without changes all are the first.

    Args:
        rows (list of `int`):
            Rows to choose from.
        changes (list of [`RewardChange`]):
            Changes of the rewards, of which the first counts.
        most (`int`):
            Maximum number of rows.
    """
    if len(rows) <= most or not changes:
        return list(rows[:most])
    by_row = changes[0].by_row
    selected = set(rows[: most // 2])
    rest = [row for row in rows if row not in selected and math.isfinite(by_row[row])]
    rest.sort(key=lambda row: by_row[row])
    selected.update(rest[: most // 4], rest[max(0, len(rest) - most // 4) :])
    return sorted(selected)


def collect_samples(
    evaluations: Mapping[str, Evaluation],
    rows: "Dataset | Sequence[Row]",
    selected: Sequence[int],
    changes: Sequence[RewardChange],
) -> list[Sample]:
    """
    Returns the samples of the selected rows, differences from the baseline marked.

    Args:
        evaluations (`dict` of [`Evaluation`]):
            Evaluations by label; the first is the baseline.
        rows (`datasets.Dataset` or list of `dict`):
            The evaluated rows.
        selected (list of `int`):
            Indices of the rows, as [`select_rows`] returns them.
        changes (list of [`RewardChange`]):
            Changes of the rewards.
    """
    completions = {label: _first_completions(evaluation) for label, evaluation in evaluations.items()}
    samples = []
    for index in selected:
        row = rows[index]
        pieces = _compared_pieces({label: found[index].text.strip() for label, found in completions.items()})
        texts = [
            Text(
                label,
                pieces[label],
                _row_rewards(evaluation, label, index, changes),
                completions[label][index].length,
                completions[label][index].finished,
            )
            for label, evaluation in evaluations.items()
        ]
        references = [str(reference) for reference in row.get("references") or []]
        values = [change.by_row[index] for change in changes]
        samples.append(Sample(index, prompt_text(row["prompt"]), references, values, texts))
    return samples


def _first_completions(evaluation: Evaluation) -> dict[int, Completion]:
    return {completion.row: completion for completion in evaluation.completions if completion.sample == 0}


def _compared_pieces(texts: Mapping[str, str]) -> dict[str, list[Piece]]:
    """Returns the texts in pieces; with two checkpoints, what the other lacks is marked in the baseline, too."""
    (baseline, base), *others = texts.items()
    pieces = {baseline: [(base, False)] if base else []}
    for label, text in others:
        removed, pieces[label] = word_diff(base, text)
        if len(others) == 1:
            pieces[baseline] = removed
    return pieces


def _row_rewards(
    evaluation: Evaluation, label: str, row: int, changes: Sequence[RewardChange]
) -> list[tuple[str, float, float]]:
    by_reward = {change.reward: change.by_row[row] for change in changes if change.label == label}
    rewards = []
    for name, score in evaluation.scores.items():
        if name.startswith("reward/") and score.row_scores and row < len(score.row_scores):
            reward = name.removeprefix("reward/")
            change = by_reward.get(reward, 0.0)
            rewards.append((reward, score.row_scores[row], change if math.isfinite(change) else 0.0))
    return rewards
