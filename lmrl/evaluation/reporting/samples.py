"""Selects and compares the completions that the page shows, of evaluations and of training."""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from lmrl.display.cards import card
from lmrl.display.wording import number
from lmrl.rewards import completion_text

from ..encoding import prompt_text
from ..evaluate import Evaluation
from ..matching import matched
from ..roles import is_reward, is_rewarded, measured_rewards, row_rewards
from ..rows import Rows
from .worddiff import Piece, word_diff


class SideBySide:
    """
    Completions of the same prompts by several checkpoints, which a notebook shows side by side.

    Words that the baseline's completion lacks at that place are marked; with two checkpoints, also the reverse.

    Args:
        evaluations (`dict` of [`Evaluation`]):
            Evaluations of the same rows by label; the first is the baseline.
        rows (`datasets.Dataset` or list of `dict`):
            The evaluated rows.
        n (`int`, *optional*, defaults to `4`):
            Number of rows: half of them are the first rows, the others those whose reward rose or fell most.
        rewarded (list of `str`, *optional*):
            As for [`report`].

    Raises:
        `ValueError`: if two evaluations are of different rows.
    """

    def __init__(
        self,
        evaluations: Mapping[str, Evaluation],
        rows: Rows,
        n: int = 4,
        rewarded: Sequence[str] | None = None,
    ) -> None:
        evaluations = matched(evaluations)
        rewarded = measured_rewards(evaluations) if rewarded is None else rewarded
        self.labels = list(evaluations)
        self.found = collect_samples(evaluations, rows, rewarded, n)

    def __repr__(self) -> str:
        return f"{' and '.join(self.labels)}: {len(self.found['samples'])} of {self.found['samples_total']} rows"

    def _repr_html_(self) -> str:
        samples = []
        for sample in self.found["samples"]:
            texts = [
                (label, pieces, " · ".join(_reward_text(*each) for each in rewards))
                for _, label, pieces, rewards in sample["texts"]
            ]
            samples.append({"prompt": sample["prompt"], "texts": texts})
        lead = f"{len(samples)} of {self.found['samples_total']} rows"
        if self.found["reward_changes"] and len(samples) < self.found["samples_total"]:
            lead += ": the first, and those whose reward rose and fell most"
        return card(" and ".join(self.labels), lead=lead, samples=samples)


class RewardChange(NamedTuple):
    """The change of a reward from the baseline to the checkpoint `label`, for each row; NaN if unknown."""

    reward: str
    label: str
    by_row: list[float]


def collect_samples(
    evaluations: Mapping[str, Evaluation], rows: Rows, rewarded: Sequence[str], most: int
) -> dict[str, Any]:
    """
    Returns the variables of the page's section of samples; the first three arguments are those of [`report`].

    If more than `most` rows have a completion of every checkpoint, half of those shown are the first rows, a quarter
    have the largest gain in reward and a quarter the largest loss; without rewards, all are the first rows.

    Returns:
        `dict` with `samples` (list of `dict`: `row`, `prompt`, `references`, `changes`, `texts`), `samples_total`
        (number of rows with completions), `reward_changes` (list of [`RewardChange`]) and `several_completions`
        (whether a prompt has more than one, of which the first is shown).
    """
    completions = {
        label: {one.row: one for one in evaluation.completions if one.sample == 0}
        for label, evaluation in evaluations.items()
    }
    complete = set.intersection(*(set(found) for found in completions.values()))
    indices = [index for index in range(len(rows)) if index in complete]
    changes = _reward_changes(evaluations, rewarded)
    samples = []
    for index in _selected(indices, changes, most):
        texts = {label: found[index].text.strip() for label, found in completions.items()}
        pieces = _compared_pieces(texts)
        samples.append(
            {
                "row": index,
                "prompt": prompt_text(rows[index]["prompt"]),
                "references": rows[index].get("references") or [],
                "changes": [change.by_row[index] for change in changes],
                "texts": [
                    (completions[label][index], label, pieces[label], _row_rewards(evaluation, label, index, changes))
                    for label, evaluation in evaluations.items()
                ],
            }
        )
    return {
        "samples": samples,
        "samples_total": len(indices),
        "reward_changes": changes,
        "several_completions": any(c.sample for evaluation in evaluations.values() for c in evaluation.completions),
    }


def collect_rollouts(rollouts: Mapping[str, Sequence[Mapping[str, Any]]], most: int) -> dict[str, Any]:
    """
    Returns the variables of the page's section of rollouts, from the lines of each run's `rollouts.jsonl` by label.

    If they have more than about `most` completions, only every k-th step of each run is shown, counted back from its
    last one.

    Returns:
        `dict` with `rollouts` (list of `dict`: `run`, `step`, `prompt` and `completions`, each with its `text`) and
        `rollout_steps` (by run: the steps that are shown, and how many the file has).
    """
    groups = []
    shown_steps = {}
    for run, lines in rollouts.items():
        steps = list(dict.fromkeys(line["step"] for line in lines))
        stride = max(1, math.ceil(len(lines) * len(rollouts) / most))
        shown = [step for place, step in enumerate(steps) if (len(steps) - 1 - place) % stride == 0]
        for (step, prompt), group in groupby(lines, lambda line: (line["step"], line["prompt"])):
            if step in shown:
                completions = [{**line, "text": completion_text(line["completion"]).strip()} for line in group]
                groups.append({"run": run, "step": step, "prompt": prompt_text(prompt), "completions": completions})
        if steps:
            shown_steps[run] = shown, len(steps)
    return {"rollouts": groups, "rollout_steps": shown_steps}


def _reward_changes(evaluations: Mapping[str, Evaluation], rewarded: Sequence[str]) -> list[RewardChange]:
    (_, base), *others = evaluations.items()
    names = [name for name in base.scores if is_reward(name)]
    changes = []
    for name in sorted(names, key=lambda name: not is_rewarded(name, rewarded)):
        for label, other in others:
            before = base.scores[name].row_scores
            after = other.scores[name].row_scores if name in other.scores else None
            if before and after and len(before) == len(after):
                by_row = [new - old for old, new in zip(before, after, strict=True)]
                changes.append(RewardChange(name.removeprefix("reward/"), label, by_row))
    return changes


def _selected(indices: list[int], changes: Sequence[RewardChange], most: int) -> list[int]:
    if len(indices) <= most or not changes:
        return indices[:most]
    by_row = changes[0].by_row
    extremes = most // 4
    selected = set(indices[: most - 2 * extremes])
    rest = [index for index in indices if index not in selected and math.isfinite(by_row[index])]
    rest.sort(key=lambda index: by_row[index])
    selected.update(rest[:extremes], rest[max(0, len(rest) - extremes) :])
    return sorted(selected)


def _compared_pieces(texts: Mapping[str, str]) -> dict[str, list[Piece]]:
    """Returns the texts in pieces; of two checkpoints, the baseline's words that the other lacks are marked, too."""
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
    """Returns name, value and change of each reward of a row; an unknown change is 0."""
    by_reward = {change.reward: change.by_row[row] for change in changes if change.label == label}
    known = {reward: change for reward, change in by_reward.items() if math.isfinite(change)}
    return [(reward, value, known.get(reward, 0.0)) for reward, value in row_rewards(evaluation, row)]


def _reward_text(name: str, value: float, change: float) -> str:
    return f"{name} {number(value)}" + (f" ({number(change, '+')})" if change else "")
