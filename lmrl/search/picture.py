"""A sweep as a picture: the objective in the order of the trials, against the KL, and against each argument."""

from collections.abc import Callable, Iterable, Sequence
from html import escape
from itertools import accumulate
from typing import Any

from lmrl.evaluation.reporting.axes import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    LogAxis,
    NamedAxis,
    axis_of,
    color,
    framed,
)

from .feasible import is_feasible
from .space import Dimension
from .study import Sweep

_COLUMNS = 2
_ACROSS, _UP = (LEFT, WIDTH - RIGHT), (HEIGHT - BOTTOM, TOP)
# What a dot means, and its colour: blue, orange, grey.
_KINDS = {"trial": 0, "over max_kl": 1, "pruned": 5}


def draw(sweep: Sweep) -> str:
    """
    Returns the trials of a sweep as one SVG document; a pruned trial is shown with its last value, hollow.

    Args:
        sweep ([`Sweep`]):
            The sweep.
    """
    shown = [trial for trial in sweep.trials() if _value(trial) is not None]
    y = axis_of([_value(trial) or 0.0 for trial in shown], *_UP, margin=0.08)
    name = sweep.objective.name
    best = sweep.best()

    def panel(title: str, x_label: str, x: Axis, at: Callable[[Any], Any], extra: Iterable[str] = ()) -> str:
        """Returns the chart of the objective against what `at` says of a trial."""
        placed = [trial for trial in shown if at(trial) is not None]
        marks = [*extra, *(_dot(trial, x(at(trial)), y, name, trial is _same(best, placed)) for trial in placed)]
        kinds = {_kind(trial): None for trial in shown}
        legend = {kind: _KINDS[kind] for kind in _KINDS if kind in kinds}
        words = f"{len(placed)} trials"
        return framed(marks, title=title, description=words, x=x, y=y, x_label=x_label, y_label=name, legend=legend)

    ends = axis_of([float(trial.number) for trial in shown], *_ACROSS)
    numbers = _Whole(ends.low, ends.high, ends.start, ends.end)
    panels = [panel(f"{name} by trial", "trial", numbers, lambda trial: trial.number, _frontier(sweep, numbers, y))]
    paid = [trial.user_attrs["kl"] for trial in shown if "kl" in trial.user_attrs]
    bound = [] if sweep.objective.max_kl is None else [sweep.objective.max_kl]
    kl = axis_of([0.0, *paid, *bound], *_ACROSS)
    line = (f'<line class="axis" x1="{kl(b)}" x2="{kl(b)}" y1="{_UP[0]}" y2="{_UP[1]}"/>' for b in bound)
    panels.append(
        panel(f"{name} against KL", "KL, nats per completion", kl, lambda trial: trial.user_attrs.get("kl"), line)
    )
    weights = sweep.importances()
    for key, dimension in sweep.space.items():
        share = f", {100 * weights[key]:.0f} % of the importance" if key in weights else ""
        panels.append(panel(f"{name} by {key}{share}", key, _axis(dimension), _place(dimension)))
    return _grid(panels)


class _Whole(Axis):
    """A scale of whole numbers."""

    @property
    def ticks(self) -> list[float]:
        """The round values between the ends that are whole."""
        return [tick for tick in super().ticks if tick == int(tick)]


def _axis(dimension: Dimension) -> Axis:
    if dimension.choices:
        return NamedAxis(-0.5, len(dimension.choices) - 0.5, *_ACROSS, tuple(map(str, dimension.choices)))
    if dimension.log:
        margin = (dimension.high / dimension.low) ** 0.05
        return LogAxis(dimension.low / margin, dimension.high * margin, *_ACROSS)
    return axis_of([dimension.low, dimension.high], *_ACROSS)


def _place(dimension: Dimension) -> Callable[[Any], float | None]:
    def at(trial: Any) -> float | None:
        """Returns where a trial stands; None if it was drawn without this argument."""
        if dimension.name not in trial.params:
            return None
        value = trial.params[dimension.name]
        return float(dimension.choices.index(value)) if dimension.choices else float(value)

    return at


def _value(trial: Any) -> float | None:
    """Returns the objective, of a pruned trial the last that was seen."""
    if trial.state.name == "COMPLETE":
        return float(trial.value)
    return trial.intermediate_values.get(trial.last_step) if trial.state.name == "PRUNED" else None


def _kind(trial: Any) -> str:
    if trial.state.name == "PRUNED":
        return "pruned"
    return "trial" if is_feasible(trial) else "over max_kl"


def _same(best: Any, trials: Sequence[Any]) -> Any:
    return next((trial for trial in trials if best is not None and trial.number == best.number), None)


def _dot(trial: Any, x: float, y: Axis, name: str, is_best: bool) -> str:
    kind, value = _kind(trial), _value(trial) or 0.0
    words = [f"trial {trial.number}, {kind}: {name} {value:.6g}"]
    words += [
        f"{key} {part:.4g}" if isinstance(part, float) else f"{key} {part}" for key, part in trial.params.items()
    ]
    if "kl" in trial.user_attrs:
        words.append(f"KL {trial.user_attrs['kl']:.3g}")
    hollow = "hollow " if kind == "pruned" else ""
    radius = 6.5 if is_best else 4
    circle = (
        f'<circle class="dot {hollow}{color(_KINDS[kind])}" cx="{x}" cy="{y(value)}" r="{radius}" '
        'fill="currentColor" stroke="currentColor" fill-opacity="0.75"/>'
    )
    label = f'<text class="name halo" x="{x}" y="{y(value) - 11}" text-anchor="middle">best</text>' if is_best else ""
    return f'<g class="hit">{circle}{label}<title>{escape(chr(10).join(words))}</title></g>'


def _frontier(sweep: Sweep, x: Axis, y: Axis) -> Iterable[str]:
    """The best so far, as steps."""
    kept = [trial for trial in sweep.trials() if trial.state.name == "COMPLETE" and is_feasible(trial)]
    if kept:
        better = max if sweep.objective.direction == "maximize" else min
        best = list(accumulate((trial.value for trial in kept), better))
        path = f"M{x(kept[0].number)},{y(best[0])}"
        path += "".join(f" H{x(trial.number)} V{y(value)}" for trial, value in zip(kept, best, strict=True))
        path += f" H{x.end}"
        style = 'fill="none" stroke="currentColor" stroke-width="1.5" opacity="0.6"'
        yield f'<path class="{color(0)}" d="{path}" {style}/>'


def _grid(panels: Sequence[str]) -> str:
    """Returns documents side by side in one."""
    rows = -(-len(panels) // _COLUMNS)
    placed = (
        panel.replace(
            "<svg ",
            f'<svg x="{WIDTH * (place % _COLUMNS)}" y="{HEIGHT * (place // _COLUMNS)}" width="{WIDTH}" '
            f'height="{HEIGHT}" ',
            1,
        )
        for place, panel in enumerate(panels)
    )
    size = f"{WIDTH * _COLUMNS} {HEIGHT * rows}"
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}">\n' + "".join(placed) + "</svg>\n"
