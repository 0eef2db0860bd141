"""Classes of scores, by their names: rewards, scores that were trained on, measures of quality."""

import math
from collections.abc import Iterable, Mapping, Sequence

from .comparison import Compared, Comparisons, compare_all
from .evaluate import TOTAL_REWARD, Evaluation
from .matching import matched
from .scores import Score

# Measures of quality in the order in which they become primary metrics, the most used ones first.
_QUALITY = ("bleu", "rougeL", "chrf", "meteor", "cider", "ter", "nist")
_MAX_QUALITY = 5

# None of these measures quality by itself: a policy that repeats one safe sentence is fluent, short and finished.
_NOT_QUALITY = ("distinct", "kl", "length", "own_perplexity", "perplexity", "repetition", "self_bleu", "unfinished")


def metrics_of(evaluations: Mapping[str, Evaluation]) -> dict[str, Score]:
    """Returns all metrics of the evaluations by name, each with its score in the first evaluation that has it."""
    metrics: dict[str, Score] = {}
    for evaluation in evaluations.values():
        for name, score in evaluation.scores.items():
            metrics.setdefault(name, score)
    return metrics


def is_rewarded(name: str, rewarded: Sequence[str]) -> bool:
    """
    Returns whether a score was trained on: for the reward `bleu` these are `reward/bleu`, `bleu` and `bleu_e2e`, for
    `rougeL` also `rougeLsum`, which is the same for texts of one line. The total of several rewards always was.
    """
    if name == TOTAL_REWARD:
        return True
    plain = name.removeprefix("reward/")
    if plain.startswith("rougeL") and any(reward.startswith("rougeL") for reward in rewarded):
        return True
    return any(plain == reward or plain.startswith(f"{reward}_") for reward in rewarded)


def is_quality(score: Score) -> bool:
    """Returns whether a score measures the quality of completions by itself."""
    return score.higher_is_better is not None and not score.name.startswith(_NOT_QUALITY)


def measured_rewards(evaluations: Mapping[str, Evaluation]) -> list[str]:
    """Returns the names of all rewards that were measured: the default for the rewards trained on."""
    return [name.removeprefix("reward/") for name in metrics_of(evaluations) if name.startswith("reward/")]


def is_reward(name: str) -> bool:
    """Returns whether a score is that of a reward function, or the total of several."""
    return name == TOTAL_REWARD or name.startswith("reward/")


def row_rewards(evaluation: Evaluation, row: int) -> list[tuple[str, float]]:
    """Returns the names, without `reward/`, and values of a row's rewards; NaN for one that does not apply."""
    rewards = {name: score.row_scores or [] for name, score in evaluation.scores.items() if is_reward(name)}
    return [(name.removeprefix("reward/"), values[row]) for name, values in rewards.items() if row < len(values)]


def primary_metrics(evaluations: Mapping[str, Evaluation], rewarded: Sequence[str]) -> list[str]:
    """
    Returns the metrics to test if the user names none: the total of the rewards, and up to five measures of quality
    that were not trained on.

    Of the measures, those that the user added (`reward/<name>`) come first, then the most used ones. None repeats
    another under a second name: with the reward `bleu` there is neither `bleu` nor `bleu_e2e`; of two with equal
    values only the first is taken. If there is no total, up to five rewards take its place.
    """
    metrics = metrics_of(evaluations)
    trained = [name for name in metrics if is_rewarded(name, rewarded)]
    rewards = [name for name in trained if is_reward(name)] or trained
    total = [TOTAL_REWARD] if TOTAL_REWARD in metrics else rewards[:_MAX_QUALITY]
    added = [name for name in metrics if name.startswith("reward/") and name not in rewards]
    candidates = dict.fromkeys([*added, *(name for name in _QUALITY if name in metrics), *metrics])
    quality: list[str] = []
    seen = list(total)
    for name in candidates:
        is_new = not any(_is_same(name, other, evaluations) for other in seen)
        is_held_out = not is_rewarded(name, rewarded) and is_quality(metrics[name])
        if is_held_out and is_new and metrics[name].pooling is not None:
            quality.append(name)
        seen.append(name)
    return [*total, *quality[:_MAX_QUALITY]]


def compare_evaluations(
    evaluations: Mapping[str, Evaluation],
    rewarded: Sequence[str] | None = None,
    primary: Sequence[str] | None = None,
) -> Comparisons:
    """
    Returns the differences of the other evaluations from the first; a notebook shows them as a table.

    Args:
        evaluations (`dict` of [`Evaluation`]):
            Evaluations of the same rows by label; the first is the baseline.
        rewarded, primary (lists of `str`, *optional*):
            As for [`report`].

    Raises:
        `ValueError`: if there is no evaluation, or they are of different rows.
    """
    evaluations = matched(evaluations)
    rewarded = measured_rewards(evaluations) if rewarded is None else rewarded
    tested = primary_metrics(evaluations, rewarded) if primary is None else primary
    return compare_all({label: evaluation.scores for label, evaluation in evaluations.items()}, tested)


def split_by_role(names: Iterable[str], compared: Compared) -> tuple[list[str], list[str]]:
    """Returns the primary metrics, in their order, and the exploratory ones; without a comparison all are primary."""
    names = list(names)
    if not compared:
        return names, []
    differences = {name: each for found in compared.values() for name, each in found.items()}
    primary = [name for name, difference in differences.items() if difference.primary and name in names]
    return primary, [name for name in names if name not in primary]


def _is_same(name: str, other: str, evaluations: Mapping[str, Evaluation]) -> bool:
    """Returns whether two scores are the same: by name, apart from `reward/`, or because all values are equal."""
    if name.removeprefix("reward/") == other.removeprefix("reward/"):
        return True
    values = [(found.values.get(name, math.nan), found.values.get(other, math.nan)) for found in evaluations.values()]
    return all(one == two for one, two in values)
