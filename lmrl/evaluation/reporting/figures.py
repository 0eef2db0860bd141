"""The charts of evaluations and training logs."""

import math
from collections.abc import Mapping, Sequence
from functools import partial

from lmrl.display.charts import histogram, lines, scatter, stacked, whiskers
from lmrl.display.curves import OPTIMIZER_PANELS, Log, curve, curves_of, explained_variance, thinned, time_shares
from lmrl.display.wording import direction, listed

from ..comparison import Compared, bootstrap_interval
from ..evaluate import Evaluation
from ..roles import is_reward, is_rewarded, metrics_of
from ..scores import Score, length_unit


def change_chart(evaluations: Mapping[str, Evaluation], compared: Compared) -> list[str]:
    """
    Returns a chart of the differences in percent of the baseline's values, in a list that may be empty.

    A metric is left out if its baseline is near 0, as the percentage would then measure only how near: 0 is inside its
    interval, or a difference is more than 10 times as large (a KL of 7e-8 before training).
    """
    baseline = next(iter(evaluations))
    base = evaluations[baseline].scores
    left_out = [name for name, score in base.items() if _is_near_zero(name, score, compared)]
    rows: dict[str, dict[str, tuple[float, float, float]]] = {}
    for label, metrics in compared.items():
        for name, difference in metrics.items():
            size = abs(base[name].value)
            if name not in left_out and not math.isnan(difference.low):
                value, low, high = (100 * part / size for part in difference.interval)
                rows.setdefault(f"{name} {direction(base[name].higher_is_better)}", {})[label] = value, low, high
    if not rows:
        return []
    differences = {name: [found[name] for found in compared.values() if name in found] for name in left_out}
    changed = [name for name, found in differences.items() if any(d.effect and not math.isnan(d.low) for d in found)]
    note = f"without {listed(changed)}: near 0 in {baseline}" if changed else ""
    x_label = f"% of the value of {baseline}, 95 % interval"
    return [whiskers(rows, title=f"Change from {baseline}", x_label=x_label, note=note)]


def _is_near_zero(name: str, score: Score, compared: Compared) -> bool:
    """Returns whether a score is too near 0 to measure changes as shares of it."""
    interval = bootstrap_interval(score)
    effects = [abs(differences[name].effect) for differences in compared.values() if name in differences]
    is_far = interval.low > 0 or interval.high < 0
    return not is_far or not math.isfinite(score.value) or max(effects, default=0.0) > 10 * abs(score.value)


def histograms(evaluations: Mapping[str, Evaluation]) -> list[str]:
    """Returns the distributions of rewards and lengths over the prompts, all checkpoints in one chart each."""
    names = metrics_of(evaluations)
    charts = []
    for name in [*filter(is_reward, names), *({"length"} & {*names})]:
        found = {label: evaluation.scores.get(name) for label, evaluation in evaluations.items()}
        samples = {label: (score.row_scores if score else None) or [] for label, score in found.items()}
        if any(samples.values()):
            unit = length_unit(names) if name == "length" else name
            charts.append(histogram(samples, title=f"{name[0].upper()}{name[1:]} of a prompt", x_label=unit))
    return charts


def optimizer_charts(logs: Mapping[str, Log]) -> list[str]:
    """Returns charts of the optimizer and throughput, and for each run of its critic and its shares of time."""
    runs = {label: log for label, log in logs.items() if log}
    panels_of_all = curves_of(logs, OPTIMIZER_PANELS)
    charts = [lines(curves, title=title, smooth=title != "Learning rate") for title, curves in panels_of_all.items()]
    for title, curves_in, chart in (
        ("Variance of returns explained by the critic", explained_variance, partial(lines, smooth=True)),
        ("Time of a step", time_shares, stacked),
    ):
        for label, log in runs.items():
            if series := curves_in(log):
                charts.append(chart(series, title=f"{title}: {label}" if len(runs) > 1 else title))
    return charts


def frontier_charts(
    evaluations: Mapping[str, Evaluation], logs: Mapping[str, Log], rewarded: Sequence[str]
) -> list[str]:
    """
    Returns charts of reward against KL: of the checkpoints, and of the steps of training.

    These are separate charts, as logged values come from sampled completions, and scores from held-out prompts.
    """
    charts = []
    x_label = "KL (nats per completion)"
    for name in metrics_of(evaluations):
        if is_reward(name) and is_rewarded(name, rewarded):
            points = {
                label: (evaluation.values.get("kl", math.nan), evaluation.values.get(name, math.nan))
                for label, evaluation in evaluations.items()
            }
            if any(math.isfinite(kl + reward) for kl, reward in points.values()):
                charts.append(scatter(points, title="Checkpoints", x_label=x_label, y_label=name))
    trails = {label: _reward_against_kl(log) for label, log in logs.items()}
    if any(len(trail) > 1 for trail in trails.values()):
        title = "In training (darker is later)"
        charts.append(scatter({}, title=title, x_label=x_label, y_label="reward", trails=trails))
    return charts


def _reward_against_kl(log: Log) -> list[tuple[float, float]]:
    """Returns pairs of KL and reward for the steps that logged both, thinned out like a curve."""
    rewards = dict(curve(log, "reward"))
    kls = [(step, kl) for step, kl in curve(log, "kl_per_sequence") if step in rewards]
    pairs = zip(thinned(kls), thinned([(step, rewards[step]) for step, _ in kls]), strict=True)
    return [(kl, reward) for (_, kl), (_, reward) in pairs]
