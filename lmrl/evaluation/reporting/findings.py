"""Warnings about evaluations and training runs, as sentences with their numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lmrl.display.curves import EXPLAINED, Log, curve
from lmrl.display.wording import listed, number, with_interval

from ..comparison import SIGNIFICANCE_LEVEL, Compared, Difference
from ..evaluate import Evaluation
from ..roles import compare_evaluations, is_quality, is_reward, is_rewarded, measured_rewards
from ..scores import Score, length_unit

# Entropy and diversity have collapsed below these shares of their initial values.
_MIN_ENTROPY_SHARE, _MIN_DIVERSITY_SHARE = 0.25, 0.7
_MAX_LENGTH_CHANGE = 0.25
_MAX_UNFINISHED = 0.05
# With fewer rows, an improved quality or a changed length may go unnoticed.
_MIN_ROWS = 50
_OF_ROWS = ("reward against held-out metrics", "diversity", "length", "unfinished completions")
# Not listed as missing if there are no completions, as for a classifier, or no rewards.
_OF_COMPLETIONS = ("diversity", "length", "unfinished completions", "entropy")
_OF_REWARDS = ("reward against held-out metrics", "KL")
# A critic that explains less than this share of the returns' variance over so many rollouts is a constant baseline.
_MIN_EXPLAINED, _MIN_ROLLOUTS = 0.1, 20


@dataclass(frozen=True)
class Findings:
    """
    The result of the checks: warnings, and the names of the checks that were made, of those without data, and of those
    that found nothing, but on too few rows (`rows`) to be sure.
    """

    warnings: list[str]
    checked: list[str]
    unchecked: list[str]
    few_rows: list[str]
    rows: int

    @property
    def summary(self) -> str:
        """A sentence or two on what was checked and what was not."""
        sentences = [f"Checked: {listed(self.checked)}." if self.checked else "Nothing could be checked."]
        if self.checked and not self.warnings:
            sentences.insert(0, "No warnings.")
        if self.few_rows:
            needed = f"that takes {_MIN_ROWS} held-out rows, and there {'is' if self.rows == 1 else 'are'} {self.rows}"
            sentences.append(f"Not checked, as {needed}: {listed(self.few_rows)}.")
        if self.unchecked:
            sentences.append(f"Not checked, for lack of data: {listed(self.unchecked)}.")
        return " ".join(sentences)


class _Pair(NamedTuple):
    """A checkpoint and the baseline; a single checkpoint has an empty baseline."""

    label: str
    scores: Mapping[str, Score]
    base: Mapping[str, Score]
    differences: Mapping[str, Difference]
    same_size: bool


def find_warnings(
    evaluations: Mapping[str, Evaluation],
    *,
    logs: Mapping[str, Log] | None = None,
    rewarded: Sequence[str] | None = None,
    kl_bound: float = 10.0,
    compared: Compared | None = None,
) -> Findings:
    """
    Returns warnings about checkpoints and the runs that trained them.

    They are about: rows that a checkpoint was trained on; settings that differ; a reward that rose while no held-out
    measure of quality did; an entropy below 25 % of its initial value (last tenth of a log against the first);
    distinct-n below 70 % of the baseline's; a mean length more than 25 % from the baseline's; a KL above `kl_bound`;
    more than 5 % of the completions unfinished, and more than before; a critic that explains less than 10 % of the
    variance of returns, in the mean over the last 20 rollouts. A check of held-out rows that finds nothing counts only
    with at least 50 of them.

    A reward may have been gamed if it rose significantly (with a star in the table), on at least 50 rows, while no
    held-out measure of quality improved. For these measures, and for a change of length, an uncorrected p-value below
    0.05 is enough: evidence in favour of a checkpoint need not survive the correction for many comparisons.

    Args:
        evaluations, logs, rewarded, compared:
            As for [`write_page`].
        kl_bound (`float`, *optional*, defaults to `10.0`):
            Largest KL to the reference without a warning, in nats per completion, for the mean over the last tenth of
            a log and for the score `kl`.

    Returns:
        [`Findings`].
    """
    rewarded = measured_rewards(evaluations) if rewarded is None else rewarded
    if compared is None:
        compared = compare_evaluations(evaluations, rewarded)
    (baseline, base), *others = evaluations.items()
    pairs = [
        _Pair(label, other.scores, base.scores, compared[label], len(other.completions) == len(base.completions))
        for label, other in others
    ]
    pairs = pairs or [_Pair(baseline, base.scores, {}, {}, same_size=True)]
    runs = {label: log for label, log in (logs or {}).items() if log}
    # Each check returns a warning, an empty text if nothing is wrong, or None if there are no data for it.
    checks: dict[str, list[str | None]] = {
        "rows trained on": [_trained_on(label, evaluation) for label, evaluation in evaluations.items()],
        "equal settings": [_unequal_settings(label, other, baseline, base) for label, other in others],
        "reward against held-out metrics": [_reward_hacking(pair, rewarded) for pair in pairs],
        "diversity": [_diversity(pair) for pair in pairs],
        "length": [_length(pair) for pair in pairs],
        "unfinished completions": [_unfinished(pair) for pair in pairs],
        "entropy": [_entropy(label, *ends) for label, ends in _first_and_last(runs, "entropy").items()],
        "KL": [
            *(
                _kl(f"{label} (end of training)", last, kl_bound)
                for label, (_, last) in _first_and_last(runs, "kl_per_sequence").items()
            ),
            *(_kl(pair.label, pair.scores["kl"].value, kl_bound) for pair in pairs if "kl" in pair.scores),
            # A baseline that was chosen need not be the reference.
            (_kl(baseline, base.values.get("kl", math.nan), kl_bound) or None) if others else None,
        ],
    }
    if any(curve(log, EXPLAINED) for log in runs.values()):  # REINFORCE has no critic
        checks["critic"] = [_critic(label, log) for label, log in runs.items()]
    results = {name: [found for found in outcomes if found is not None] for name, outcomes in checks.items()}
    measured = {name for evaluation in evaluations.values() for name in evaluation.scores}
    measured |= {name for log in runs.values() for row in log for name in row}
    has_rewards = any(map(is_reward, measured))
    lacking: tuple[str, ...] = () if has_rewards else _OF_REWARDS
    if not has_rewards and "length" not in measured:
        lacking += _OF_COMPLETIONS
    rows = min(evaluation.num_prompts for evaluation in evaluations.values())
    few = [name for name in _OF_ROWS if rows < _MIN_ROWS and results[name] and not any(results[name])]
    return Findings(
        [warning for found in results.values() for warning in found if warning],
        [name for name, found in results.items() if found and name not in few],
        [name for name, found in results.items() if not found and name not in lacking],
        few,
        rows,
    )


def _trained_on(label: str, evaluation: Evaluation) -> str | None:
    if evaluation.trained_on is None:
        return None
    counts = {run: len(ids) for run, ids in evaluation.trained_on.items() if ids}
    if not counts:
        return ""
    rows = len({row for ids in evaluation.trained_on.values() for row in ids})
    runs = listed([run if len(counts) == 1 else f"{run} ({count})" for run, count in counts.items()])
    found = f"{label}: {rows} of {len(evaluation.row_ids)} rows were trained on, by {runs}."
    return f"{found} Its scores are not held out."


def _unequal_settings(label: str, other: Evaluation, baseline: str, base: Evaluation) -> str:
    unequal = []
    if base.decoding and other.decoding:
        keys = dict.fromkeys(key for key in (*base.decoding, *other.decoding) if key != "batch_size")
        unequal = [f"decoding: {key}" for key in keys if base.decoding.get(key) != other.decoding.get(key)]
    common = [name for name in base.scores if name in other.scores]
    unequal += [name for name in common if base.scores[name].signature != other.scores[name].signature]
    found = f"{label} and {baseline} were evaluated with different settings ({listed(unequal)})."
    return f"{found} Compare the signatures." if unequal else ""


def _reward_hacking(pair: _Pair, rewarded: Sequence[str]) -> str | None:
    trained = {name: each for name, each in pair.differences.items() if is_rewarded(name, rewarded)}
    rewards = {name: each for name, each in trained.items() if is_reward(name)}
    held_out = {
        name: each
        for name, each in pair.differences.items()
        if name not in trained and is_quality(pair.scores[name]) and not math.isnan(each.low)
    }
    if not rewards or not held_out:
        return None
    if max(each.rows for each in rewards.values()) < _MIN_ROWS:
        return ""
    # A reward that is not a primary metric has no star: its uncorrected p-value counts.
    starred = {n: each for n, each in rewards.items() if each.significant or (not each.primary and _has_changed(each))}
    risen = {name: each for name, each in starred.items() if each.effect > 0}
    improved = [
        name
        for name, each in held_out.items()
        if _has_changed(each) and (each.effect > 0) == pair.scores[name].higher_is_better
    ]
    if not risen or improved:
        return ""
    which = "the held-out metric did not improve"
    if len(held_out) > 1:
        which = f"none of the {len(held_out)} held-out metrics improved"
    return (
        f"{pair.label}: the reward rose ({_changes(risen)}), but {which} ({_changes(held_out)}). "
        "This may be reward hacking."
    )


def _diversity(pair: _Pair) -> str | None:
    names = [name for name in pair.base if name.startswith("distinct") and name in pair.scores]
    if not names or not pair.same_size:
        return None
    changes = []
    for name in names:
        old = pair.base[name].value
        new = pair.scores[name].value
        if new < _MIN_DIVERSITY_SHARE * old:
            changes.append(f"{name} {number(old)} → {number(new)}, {100 * (new / old - 1):.0f} %")
    return f"{pair.label}: completions are less diverse ({'; '.join(changes)})." if changes else ""


def _length(pair: _Pair) -> str | None:
    difference = pair.differences.get("length")
    if difference is None or pair.base["length"].signature != pair.scores["length"].signature:
        return None
    before = pair.base["length"].value
    if abs(difference.effect) <= _MAX_LENGTH_CHANGE * before or not before or not _has_changed(difference):
        return ""
    longer_or_shorter = "longer" if difference.effect > 0 else "shorter"
    return (
        f"{pair.label}: completions are {100 * abs(difference.effect) / before:.0f} % {longer_or_shorter} "
        f"({number(before)} → {number(pair.scores['length'].value)} {length_unit(pair.scores)})."
    )


def _unfinished(pair: _Pair) -> str | None:
    score = pair.scores.get("unfinished")
    base = pair.base.get("unfinished")
    if score is None:
        return None
    if not score.value > _MAX_UNFINISHED or (base is not None and score.value <= base.value):
        return ""
    before = "" if base is None else f" (before: {100 * base.value:.1f} %)"
    return (
        f"{pair.label}: {100 * score.value:.1f} % of the completions are unfinished{before}. "
        "They were cut at max_new_tokens, and the metrics are of the cut texts."
    )


def _entropy(label: str, first: float, last: float) -> str:
    if not last < _MIN_ENTROPY_SHARE * first:
        return ""
    return (
        f"{label}: entropy collapsed to {100 * last / first:.0f} % of its initial value "
        f"({number(first)} → {number(last)} nats per token, first and last tenth of the log)."
    )


def _critic(label: str, log: Log) -> str | None:
    values = [value for _, value in curve(log, EXPLAINED) if math.isfinite(value)]
    if len(values) < _MIN_ROLLOUTS:
        return None
    mean = sum(values[-_MIN_ROLLOUTS:]) / _MIN_ROLLOUTS
    if not mean < _MIN_EXPLAINED:
        return ""
    return (
        f"{label}: the critic explains almost nothing, {100 * mean:.0f} % of the variance of returns in the mean over "
        f"the last {_MIN_ROLLOUTS} rollouts. REINFORCE with leave-one-out would do the same with less."
    )


def _kl(label: str, value: float, bound: float) -> str:
    found = f"{label}: the KL to the reference is {number(value)} nats per completion, more than {bound:g}."
    return found if value > bound else ""


def _first_and_last(logs: Mapping[str, Log], name: str) -> dict[str, tuple[float, float]]:
    """Returns a value's means over the first and the last tenth of each log that has it at least twice."""
    ends = {}
    for label, log in logs.items():
        values = [value for _, value in curve(log, name)]
        tenth = max(1, len(values) // 10)
        if len(values) > 1:
            ends[label] = sum(values[:tenth]) / tenth, sum(values[-tenth:]) / tenth
    return ends


def _has_changed(difference: Difference) -> bool:
    """Returns whether the p-value of a difference is below 0.05 without correction."""
    return difference.p_value < SIGNIFICANCE_LEVEL


def _changes(differences: Mapping[str, Difference]) -> str:
    return ", ".join(f"{name} {with_interval(*difference.interval)}" for name, difference in differences.items())
