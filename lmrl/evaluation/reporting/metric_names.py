"""Classes of scores by their names: rewards, trained on, measures of quality."""

from collections.abc import Mapping, Sequence

from ..evaluate import Evaluation
from ..scores import Score

# None of these alone measures quality: a policy that repeats one safe sentence is fluent, short and finished.
_NOT_QUALITY = ("distinct", "kl", "length", "own_perplexity", "perplexity", "repetition", "self_bleu", "unfinished")


def metrics_of(evaluations: Mapping[str, Evaluation]) -> dict[str, Score]:
    """Returns each metric that any of the evaluations has, by name, with its first score."""
    metrics: dict[str, Score] = {}
    for evaluation in evaluations.values():
        for name, score in evaluation.scores.items():
            metrics.setdefault(name, score)
    return metrics


def is_rewarded(name: str, rewarded: Sequence[str]) -> bool:
    """Returns whether a score was trained on: for the reward `bleu` these are `reward/bleu`, `bleu` and `bleu_e2e`."""
    plain = name.removeprefix("reward/")
    return any(plain == reward or plain.startswith(f"{reward}_") for reward in rewarded)


def is_quality(score: Score) -> bool:
    """Returns whether a score alone measures the quality of completions."""
    return score.higher_is_better is not None and not score.name.startswith(_NOT_QUALITY)


def measured_rewards(evaluations: Mapping[str, Evaluation]) -> list[str]:
    """Returns the names of all rewards that were measured: the default for the rewards trained on."""
    return [name.removeprefix("reward/") for name in metrics_of(evaluations) if name.startswith("reward/")]
