"""Which charts evaluations and logs give."""

import math
from collections.abc import Mapping, Sequence

from ..comparison import Compared
from ..evaluate import Evaluation
from .charts import histogram, lines, scatter, whiskers
from .curves import Log, curve, panels, thinned
from .findings import is_rewarded
from .wording import direction


def change_chart(evaluations: Mapping[str, Evaluation], found: Compared) -> list[str]:
    """Returns the differences as shares of the baseline's values, as far as those are not 0: none or one chart."""
    base = next(iter(evaluations.values())).scores
    rows: dict[str, dict[str, tuple[float, float, float]]] = {}
    for label, metrics in found.items():
        for name, difference in metrics.items():
            size = abs(base[name].value)
            if size > 0 and math.isfinite(size) and not math.isnan(difference.low):
                value, low, high = (100 * part / size for part in difference.interval)
                rows.setdefault(f"{name} {direction(base[name].higher_is_better)}", {})[label] = value, low, high
    if not rows:
        return []
    baseline = next(iter(evaluations))
    return [whiskers(rows, title=f"Change from {baseline}", x_label=f"% of the value of {baseline}, 95 % interval")]


def histograms(evaluations: Mapping[str, Evaluation]) -> list[str]:
    """Returns how rewards and lengths lie over the prompts, checkpoints over each other."""
    names = dict.fromkeys(name for evaluation in evaluations.values() for name in evaluation.scores)
    units = {name: name for name in names if name.startswith("reward/")}
    if "length" in names:
        units["length"] = "tokens"
    charts = []
    for name, unit in units.items():
        samples = {
            label: evaluation.scores[name].row_scores if name in evaluation.scores else None
            for label, evaluation in evaluations.items()
        }
        if any(samples.values()):
            title = f"{name[0].upper()}{name[1:]} of a prompt"
            charts.append(histogram({k: v or [] for k, v in samples.items()}, title=title, x_label=unit))
    return charts


def training_charts(logs: Mapping[str, Log]) -> list[str]:
    """Returns the training curves of the runs, the same number of each in one chart."""
    return [lines(series, title=title) for title, series in panels(logs).items()]


def frontier_charts(
    evaluations: Mapping[str, Evaluation], logs: Mapping[str, Log], rewarded: Sequence[str]
) -> list[str]:
    """
    Returns reward against KL: of the checkpoints, where both were measured, and on the way, where both were logged.

    Two charts, as what was logged is of texts sampled in training, and what was measured is of held-out prompts.
    """
    charts = []
    for name in dict.fromkeys(name for evaluation in evaluations.values() for name in evaluation.scores):
        if name.startswith("reward/") and is_rewarded(name, rewarded):
            points = {label: (_value(e, "kl"), _value(e, name)) for label, e in evaluations.items()}
            if any(math.isfinite(kl + reward) for kl, reward in points.values()):
                charts.append(scatter(points, title="Checkpoints", x_label="KL (nats per completion)", y_label=name))
    trails = {label: _path(log) for label, log in logs.items()}
    if any(len(trail) > 1 for trail in trails.values()):
        title, x_label = "In training (darker is later)", "KL (nats per completion)"
        charts.append(scatter({}, title=title, x_label=x_label, y_label="reward", trails=trails))
    return charts


def _value(evaluation: Evaluation, name: str) -> float:
    return evaluation.scores[name].value if name in evaluation.scores else math.nan


def _path(log: Log) -> list[tuple[float, float]]:
    rewards = dict(curve(log, "reward"))
    kls = {step: kl for step, kl in curve(log, "kl_per_sequence") if step in rewards}
    both = thinned(list(kls.items())), thinned([(step, rewards[step]) for step in kls])
    return [(kl, reward) for (_, kl), (_, reward) in zip(*both, strict=True)]
