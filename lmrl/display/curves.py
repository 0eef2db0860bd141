"""The curves of the log of a training run."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Log: TypeAlias = Sequence[Mapping[str, Any]]
Curve: TypeAlias = list[tuple[float, float]]

# Charts are about 450 pixels wide: more points than these cannot be seen.
POINTS = 240

# The numbers that the progress bar shows: its names for them, and those in the log.
PROGRESS = {
    "reward": "reward",
    "kl": "kl_per_sequence",
    "entropy": "entropy",
    "length": "completions/mean_length",
    "explained": "value/explained_variance",
}

STAGES = ("generation", "scoring", "reward", "update")  # stages of a step; their seconds are logged as time/<stage>

# Share of the variance of returns that the critic explains: over all tokens, and by quarter of the completions.
EXPLAINED = "value/explained_variance"
_EXPLAINED = {
    EXPLAINED: "all",
    **{f"{EXPLAINED}/quarter_{number}": f"Q{number}" for number in range(1, 5)},
    f"{EXPLAINED}_leave_one_out": "leave-one-out",
}

_PANELS = {
    "kl_per_sequence": "KL to the reference (nats per completion)",
    "entropy": "Entropy (nats per token)",
    "completions/mean_length": "Length (tokens)",
    "completions/clipped_ratio": "Unfinished (share)",
}
OPTIMIZER_PANELS = {
    "learning_rate": "Learning rate",
    "grad_norm": "Gradient norm",
    "samples_per_second": "Completions per second",
    "tokens_per_second": "Tokens per second",
}


def curve(log: Log, name: str) -> Curve:
    """Returns pairs of the steps at which a number was logged, and its values."""
    found = ((row.get("step", index), row.get(name)) for index, row in enumerate(log, start=1))
    return [(float(step), float(value)) for step, value in found if isinstance(value, int | float)]


def panels(logs: Mapping[str, Log]) -> dict[str, dict[str, Curve]]:
    """
    Returns the curves of the training charts as `[title][label of the run]`, each thinned to 240 points.

    The charts show the total reward and its components (without rewards, the loss and the token accuracy), KL,
    entropy, length, share unfinished, and every held-out `eval_` value, except for times, counts of tokens and values
    known only at the start and the end, which are in the tables. A value that no run logged has no chart; a run that
    did not log it has an empty list.
    """
    names = list(dict.fromkeys(name for log in logs.values() for row in log for name in row))
    components = [name for name in names if name.startswith("rewards/") and name.endswith("/mean")]
    titles = {"reward": "Reward"} if "reward" in names else {"loss": "Loss", "mean_token_accuracy": "Token accuracy"}
    if len(components) > 1:
        titles = {"reward": "Reward (weighted total)"}
        titles |= {name: f"Reward: {name.removeprefix('rewards/').removesuffix('/mean')}" for name in components}
    titles |= _PANELS
    if "kl_per_sequence" not in names:
        titles |= {"kl": "KL to the reference (nats per token)"}
    for name in names:
        is_cost = name.startswith("eval_time/") or name.endswith(("runtime", "_per_second", "time", "num_tokens"))
        if name.startswith("eval_") and not is_cost:
            titles[name] = f"Held out: {name.removeprefix('eval_')}"
    return {title: curves for title, curves in curves_of(logs, titles).items() if not _has_ends_alone(title, curves)}


def _has_ends_alone(title: str, curves: Mapping[str, Curve]) -> bool:
    held_out = title.startswith("Held out: ")
    return held_out and all(len(points) <= 2 and points[0][0] == 0 for points in curves.values() if points)


def time_shares(log: Log) -> dict[str, Curve]:
    """
    Returns the share of each stage in the time of a step, in percent, from moving averages, as not every step has a
    rollout. Empty if no times were logged.
    """
    seconds = {stage: smoothed(thinned(curve(log, f"time/{stage}"))) for stage in STAGES}
    totals = [sum(value for _, value in parts) for parts in zip(*seconds.values(), strict=False)]
    if not any(totals):
        return {}
    return {
        stage: [(step, 100 * value / (total or 1.0)) for (step, value), total in zip(part, totals, strict=False)]
        for stage, part in seconds.items()
    }


def explained_variance(log: Log) -> dict[str, Curve]:
    """
    Returns the curves of the variance explained by a critic over all tokens and by quarter of the completions, and by
    the mean of the prompt's other completions in its place; empty if none was logged.
    """
    return {label: points for name, label in _EXPLAINED.items() if (points := thinned(curve(log, name)))}


def smoothed(points: Sequence[tuple[float, float]]) -> Curve:
    """
    Returns an exponential moving average over about a tenth of the points, with Adam's correction for the bias at the
    start; a point that is not finite stays as it is and is left out of the average.
    """
    decay = max(1 - 2 / (len(points) / 10 + 1), 0.0)  # 0 for up to 10 points: no average
    average = weight = 0.0
    averages = []
    for step, value in points:
        if math.isfinite(value):
            average = decay * average + (1 - decay) * value
            weight = decay * weight + (1 - decay)
            value = average / weight
        averages.append((step, value))
    return averages


def curves_of(logs: Mapping[str, Log], titles: Mapping[str, str]) -> dict[str, dict[str, Curve]]:
    """Returns the curves of `titles` (by logged name) as `[title][label]`, without those that no run logged."""
    series = {
        title: {label: thinned(curve(log, name)) for label, log in logs.items()} for name, title in titles.items()
    }
    return {title: curves for title, curves in series.items() if any(curves.values())}


def thinned(points: Curve) -> Curve:
    """
    Returns at most 240 points, each the mean of a group of neighbours, at the step of the last of them. What is not
    finite is left out of a mean, as of a reward that applied to no completion of a step; NaN if nothing is left.
    """
    width = math.ceil(len(points) / POINTS)
    if width < 2:
        return points
    groups = [points[i : i + width] for i in range(0, len(points), width)]
    finite = [[value for _, value in group if math.isfinite(value)] for group in groups]
    means = (sum(values) / len(values) if values else math.nan for values in finite)
    return [(group[-1][0], mean) for group, mean in zip(groups, means, strict=True)]
