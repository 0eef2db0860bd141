"""What a table does not shout: warnings in words, each with its numbers."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from ..comparison import Compared, Difference, compare_all
from ..evaluate import Evaluation
from ..metrics import Score
from .curves import Log, curve
from .wording import listed, number, with_interval

# Below this share of what it was, entropy or diversity has collapsed.
_ENTROPY_KEPT, _DIVERSITY_KEPT = 0.25, 0.7
_LENGTH_DRIFT = 0.25
_UNFINISHED = 0.05

# Of these, none says by itself that a text is good: a policy that repeats one safe sentence is fluent, short and ends.
_NOT_QUALITY = ("distinct", "kl", "length", "own_perplexity", "perplexity", "repetition", "self_bleu", "unfinished")


@dataclass(frozen=True)
class Findings:
    """
    What was looked for, and what was found.

    Args:
        warnings (list of `str`):
            Sentences that hold.
        checked (list of `str`):
            What was looked at.
        unchecked (list of `str`):
            What could not be, for want of data.
    """

    warnings: list[str]
    checked: list[str]
    unchecked: list[str]

    @property
    def summary(self) -> str:
        """One sentence on what was checked, and what could not be."""
        if not self.checked:
            return f"Nothing could be checked, for want of data: {listed(self.unchecked)}."
        missing = f" Not checked, for want of data: {listed(self.unchecked)}." if self.unchecked else ""
        start = "Checked" if self.warnings else "No warnings. Checked"
        return f"{start}: {listed(self.checked)}.{missing}"


@dataclass(frozen=True)
class _Pair:
    """A checkpoint beside the baseline; what is measured alone has no baseline."""

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
    Returns the warnings that hold of checkpoints and of the runs that made them.

    A reward that rose (its interval lies above 0) while no held-out measure of quality did; entropy that fell below
    25 % (the last tenth of a log against its first); distinct-n below 70 % of the baseline's; a mean length more than
    25 % from the baseline's, with an interval that excludes 0; a KL above `kl_bound`; more than 5 % unfinished, and
    more than before.

    Args:
        evaluations (`dict` of [`Evaluation`]):
            What was measured, by label; the first is the baseline.
        logs (`dict` of log histories, *optional*):
            Of the training runs, by label, as [`read_log`] gives them.
        rewarded (list of `str`, *optional*):
            Names of the rewards trained on; by default all that were measured as `reward/<name>`.
        kl_bound (`float`, *optional*, defaults to `10.0`):
            Nats per completion from the reference policy, of the last tenth of a log or of a score named `kl`.
        compared (`dict`, *optional*):
            What [`compare_all`] gives of the scores, if that is there already.

    Returns:
        [`Findings`].
    """
    if compared is None:
        compared = compare_all({label: evaluation.scores for label, evaluation in evaluations.items()})
    pairs = _pairs(evaluations, compared)
    rewarded = measured_rewards(evaluations) if rewarded is None else rewarded
    runs = {label: log for label, log in (logs or {}).items() if log}
    checks: dict[str, Iterable[list[str] | None]] = {
        "equal settings": [_settings(evaluations)],
        "reward against held-out metrics": map(partial(_gamed, rewarded=rewarded), pairs),
        "diversity": map(_diversity, pairs),
        "length": map(_length, pairs),
        "unfinished texts": map(_unfinished, pairs),
        "entropy": (_entropy(label, log) for label, log in runs.items()),
        "KL": [
            *(_kl_of_log(label, log, kl_bound) for label, log in runs.items()),
            *(_kl_of_score(pair, kl_bound) for pair in pairs),
        ],
    }
    done = {name: [found for found in results if found is not None] for name, results in checks.items()}
    return Findings(
        [sentence for found in done.values() for sentences in found for sentence in sentences],
        [name for name, found in done.items() if found],
        [name for name, found in done.items() if not found],
    )


def is_rewarded(name: str, rewarded: Sequence[str]) -> bool:
    """
    Returns whether a score is of what was trained on: for `bleu` `reward/bleu`, and `bleu` and `bleu_e2e` as well.

    Args:
        name (`str`):
            Of the score.
        rewarded (list of `str`):
            Names of the rewards trained on.
    """
    plain = name.removeprefix("reward/")
    return any(plain == reward or plain.startswith(f"{reward}_") for reward in rewarded)


def is_quality(score: Score) -> bool:
    """Returns whether a score says by itself how good the texts are."""
    return score.higher_is_better is not None and not score.name.startswith(_NOT_QUALITY)


def measured_rewards(evaluations: Mapping[str, Evaluation]) -> list[str]:
    """Returns the names of all rewards that were measured, which stand for those trained on where nobody says."""
    names = (name for evaluation in evaluations.values() for name in evaluation.scores)
    return list(dict.fromkeys(name.removeprefix("reward/") for name in names if name.startswith("reward/")))


def _pairs(evaluations: Mapping[str, Evaluation], compared: Compared) -> list[_Pair]:
    (baseline, base), *others = evaluations.items()
    if not others:
        return [_Pair(baseline, base.scores, {}, {}, same_size=True)]
    size = len(base.completions)
    return [
        _Pair(label, other.scores, base.scores, compared[label], len(other.completions) == size)
        for label, other in others
    ]


def _settings(evaluations: Mapping[str, Evaluation]) -> list[str] | None:
    """Says where checkpoints were not decoded or measured alike: their numbers differ for that alone."""
    (baseline, base), *others = evaluations.items()
    sentences = []
    for label, other in others:
        keys = {key: None for key in (*base.decoding, *other.decoding) if key != "batch_size"}
        known = base.decoding and other.decoding
        unlike = [f"decoding: {key}" for key in keys if known and base.decoding.get(key) != other.decoding.get(key)]
        both = [name for name in base.scores if name in other.scores]
        unlike += [name for name in both if base.scores[name].signature != other.scores[name].signature]
        if unlike:
            sentences.append(f"{label} and {baseline} were not measured alike ({listed(unlike)}): see the signatures.")
    return sentences if others else None


def _gamed(pair: _Pair, rewarded: Sequence[str]) -> list[str] | None:
    gains = {name: difference for name, difference in pair.differences.items() if is_rewarded(name, rewarded)}
    risen = {name: d for name, d in gains.items() if name.startswith("reward/") and d.low > 0}
    held_out = {
        name: difference
        for name, difference in pair.differences.items()
        if name not in gains and is_quality(pair.scores[name]) and not math.isnan(difference.low)
    }
    if not any(name.startswith("reward/") for name in gains) or not held_out:
        return None
    better = [name for name, d in held_out.items() if _improved(d, pair.scores[name].higher_is_better)]
    if not risen or better:
        return []
    which = "the held-out metric did not improve"
    if len(held_out) > 1:
        which = f"none of the {len(held_out)} held-out metrics improved"
    return [
        f"{pair.label}: the reward rose ({_changes(risen)}), but {which} ({_changes(held_out)}). "
        "The reward may have been gamed."
    ]


def _diversity(pair: _Pair) -> list[str] | None:
    names = [name for name in pair.base if name.startswith("distinct") and name in pair.scores]
    if not names or not pair.same_size:
        return None
    fallen = [name for name in names if pair.scores[name].value < _DIVERSITY_KEPT * pair.base[name].value]
    words = []
    for name in fallen:
        old, new = pair.base[name].value, pair.scores[name].value
        words.append(f"{name} {number(old)} → {number(new)}, {100 * (new / old - 1):.0f} %")
    return [f"{pair.label}: the texts are less diverse ({'; '.join(words)})."] if fallen else []


def _length(pair: _Pair) -> list[str] | None:
    difference = pair.differences.get("length")
    if difference is None:
        return None
    before = pair.base["length"].value
    if abs(difference.effect) <= _LENGTH_DRIFT * before or not (difference.low > 0 or difference.high < 0):
        return []
    way = "longer" if difference.effect > 0 else "shorter"
    return [
        f"{pair.label}: texts are {100 * abs(difference.effect) / before:.0f} % {way} "
        f"({number(before)} → {number(pair.scores['length'].value)} tokens)."
    ]


def _unfinished(pair: _Pair) -> list[str] | None:
    score, base = pair.scores.get("unfinished"), pair.base.get("unfinished")
    if score is None:
        return None
    if not score.value > _UNFINISHED or (base is not None and score.value <= base.value):
        return []
    before = "" if base is None else f" (before: {100 * base.value:.1f} %)"
    return [
        f"{pair.label}: {100 * score.value:.1f} % of the texts are unfinished{before}: "
        "max_new_tokens cut them, and every metric is of what was left."
    ]


def _entropy(label: str, log: Log) -> list[str] | None:
    ends = _ends(log, "entropy")
    if ends is None:
        return None
    first, last = ends
    if not last < _ENTROPY_KEPT * first:
        return []
    return [
        f"{label}: entropy collapsed to {100 * last / first:.0f} % of what it was "
        f"({number(first)} → {number(last)} nats per token, first and last tenth of the log)."
    ]


def _kl_of_log(label: str, log: Log, bound: float) -> list[str] | None:
    ends = _ends(log, "kl_per_sequence")
    if ends is None:
        return None
    sentence = f"{label}: the policy ended training {number(ends[1])} nats per completion from the reference"
    return [f"{sentence}, more than {bound:g}."] if ends[1] > bound else []


def _kl_of_score(pair: _Pair, bound: float) -> list[str] | None:
    if "kl" not in pair.scores:
        return None
    value = pair.scores["kl"].value
    sentence = f"{pair.label}: the texts are {number(value)} nats per completion from the reference"
    return [f"{sentence}, more than {bound:g}."] if value > bound else []


def _ends(log: Log, name: str) -> tuple[float, float] | None:
    """Returns the means of the first and of the last tenth of what was logged, at least one value each."""
    values = [value for _, value in curve(log, name)]
    tenth = max(1, len(values) // 10)
    if len(values) < 2:
        return None
    return sum(values[:tenth]) / tenth, sum(values[-tenth:]) / tenth


def _improved(difference: Difference, higher_is_better: bool | None) -> bool:
    return difference.low > 0 if higher_is_better else difference.high < 0


def _changes(found: Mapping[str, Difference]) -> str:
    return ", ".join(f"{name} {with_interval(*difference.interval)}" for name, difference in found.items())
