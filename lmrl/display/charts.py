"""
Charts as SVG documents: lines, a scatter, histograms, intervals.

    Path("frontier.svg").write_text(scatter({"sft": (0, 0.43), "ppo": (4.1, 0.67)}, title="...", ...))
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, groupby, pairwise
from typing import Any

import numpy as np

from .axes import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, axis_of, colors_of, draw, nice_step
from .curves import Log, panels, smoothed
from .wording import number, with_interval

Point = tuple[float, float]
_MAX_DOTS = 30  # a line with more points is drawn without dots
_MIN_SMOOTHED = 20  # a line with fewer points has no moving average
_ROW_NAME = 32  # most letters of a row's name, which leave room for its intervals
_ACROSS = (LEFT, WIDTH - RIGHT)
_UP = (HEIGHT - BOTTOM, TOP)


def lines(
    series: Mapping[str, Sequence[Point]],
    *,
    title: str,
    smooth: bool = False,
    thin: Mapping[str, Sequence[Sequence[Point]]] | None = None,
) -> str:
    """
    Returns a line chart of points by name, from left to right; lines have gaps at values that are not finite.

    A line of few points has dots, too. With `smooth`, a line of many points is drawn faint, with its moving average.
    An empty list takes up a colour, so that a run has the same one in all charts. `thin` has lines to draw behind the
    line of the same name, such as the runs of which it is the mean.
    """
    colors = colors_of(series)
    thin = thin or {}
    drawn_points = list(chain(*series.values(), *chain(*thin.values())))
    x = axis_of((x for x, _ in drawn_points), *_ACROSS, margin=0.02)
    y = axis_of((y for _, y in drawn_points), *_UP)
    dots = [
        {"x": x(a), "y": y(b), "radius": 2.4, "color": colors[name]}
        for name, points in series.items()
        for a, b in filter(_is_finite, points)
        if len(points) <= (_MIN_SMOOTHED - 1 if smooth else _MAX_DOTS)
    ]
    return draw(
        title=title,
        description=". ".join(f"{name}: {_first_and_last(points)}" for name, points in series.items()),
        x=x,
        y=y,
        x_label="step",
        legend={name: colors[name] for name, points in series.items() if points},
        lines=[
            {"color": colors[name], "path": _path(drawn, x, y), "kind": kind}
            for name, points in series.items()
            for kind, drawn in _kinds(points, smooth, thin.get(name, ()))
        ],
        dots=dots,
        strips=_step_strips(series, x, y),
    )


def training_charts(logs: Mapping[str, Log]) -> list[str]:
    """Returns the training curves: a chart for each logged value, with all runs."""
    return [lines(series, title=title, smooth=True) for title, series in panels(logs).items()]


def stacked(series: Mapping[str, Sequence[Point]], *, title: str) -> str:
    """Returns a chart of stacked shares in percent; all series must have the same steps."""
    colors = colors_of(series)
    steps = [step for step, _ in next(iter(series.values()))]
    x = axis_of(steps, *_ACROSS, margin=0.0)
    y = Axis(0.0, 100.0, *_UP)
    areas = []
    below = [0.0] * len(steps)
    for name, points in series.items():
        above = [low + share for low, (_, share) in zip(below, points, strict=True)]
        edge = [*zip(steps, above, strict=True), *reversed([*zip(steps, below, strict=True)])]
        areas.append({"color": colors[name], "path": _path(edge, x, y) + "Z"})
        below = above
    means = {name: math.fsum(share for _, share in points) / len(points) for name, points in series.items()}
    return draw(
        title=title,
        description=". ".join(f"{name}: mean {mean:.1f} %" for name, mean in means.items()),
        x=x,
        y=y,
        x_label="step",
        y_label="%",
        legend=colors,
        areas=areas,
        strips=({**strip, "dots": []} for strip in _step_strips(series, x, y)),
    )


def scatter(
    points: Mapping[str, Point],
    *,
    title: str,
    x_label: str,
    y_label: str,
    trails: Mapping[str, Sequence[Point]] | None = None,
) -> str:
    """
    Returns a chart of labelled points, and of trails, thin lines with dots that get darker from first to last.

    Args:
        points (`dict` of pairs of `float`):
            Points by label; one that is not finite is left out.
        title (`str`), x_label (`str`), y_label (`str`):
            Heading, and the names of the axes.
        trails (`dict` of lists of pairs of `float`, *optional*):
            The points of each trail in order, by name.
    """
    trails = trails or {}
    every_point = [*points.values(), *chain.from_iterable(trails.values())]
    x = axis_of((x for x, _ in every_point), *_ACROSS)
    y = axis_of((y for _, y in every_point), *_UP, margin=0.08)
    colors = colors_of(trails)
    dots: list[dict[str, Any]] = []
    for name, trail in trails.items():
        for order, (a, b) in enumerate(trail, start=1):
            if _is_finite((a, b)):
                tooltip = f"{name}, point {order}: {number(a)}, {number(b)}"
                opacity = round(0.2 + 0.8 * order / len(trail), 2)
                look = {"radius": 2.8, "color": colors[name], "opacity": opacity}
                dots.append({"x": x(a), "y": y(b), **look, "tooltip": tooltip})
    texts = {name: f"{name}: {number(a)}, {number(b)}" for name, (a, b) in points.items()}
    places = {name: (x(a), y(b)) for name, (a, b) in points.items() if _is_finite((a, b))}
    point_colors = colors_of(points)
    for name, (px, py) in places.items():
        look = {"radius": 5.5, "color": point_colors[name], "name": name, "label": _label(name, places)}
        dots.append({"x": px, "y": py, **look, "tooltip": texts[name]})
    return draw(
        title=title,
        description=f"{x_label}, {y_label}. " + ". ".join(texts.values()),
        x=x,
        y=y,
        x_label=x_label,
        y_label=y_label,
        legend={name: colors[name] for name, trail in trails.items() if trail},
        lines=[{"color": colors[name], "path": _path(trail, x, y), "kind": "thin"} for name, trail in trails.items()],
        dots=dots,
    )


def histogram(values: Mapping[str, Sequence[float]], *, title: str, x_label: str, bins: int = 20) -> str:
    """
    Returns the histograms of samples by name in one chart, with about `bins` bins, as shares in percent.

    Values that are not finite are left out. A dashed line marks each mean.
    """
    colors = colors_of(values)
    samples = {name: finite for name, sample in values.items() if (finite := list(filter(math.isfinite, sample)))}
    means = {name: math.fsum(sample) / len(sample) for name, sample in samples.items()}
    edges = _edges(list(chain.from_iterable(samples.values())), bins)
    shares = {name: _shares(sample, edges) for name, sample in samples.items()}
    x = Axis(edges[0], edges[-1], *_ACROSS)
    y = Axis(0.0, 105 * max(chain.from_iterable(shares.values()), default=0.0) or 100.0, *_UP)
    strips = []
    for place, (left, right) in enumerate(pairwise(edges)):
        by_name = (f"{name}: {100 * share[place]:.1f} %" for name, share in shares.items())
        tooltip = "\n".join([f"{number(left)} to {number(right)}", *by_name])
        strips.append({"left": x(left), "right": x(right), "dots": [], "tooltip": tooltip})
    return draw(
        title=title,
        description=". ".join(f"{name}: mean {number(means[name])} of {len(samples[name])}" for name in samples),
        x=x,
        y=y,
        x_label=x_label,
        y_label="%",
        legend={name: colors[name] for name in samples},
        areas=[{"color": colors[name], "path": _steps(share, edges, x, y)} for name, share in shares.items()],
        means=[{"color": colors[name], "x": x(mean)} for name, mean in means.items()],
        strips=strips,
    )


def whiskers(
    rows: Mapping[str, Mapping[str, tuple[float, float, float]]], *, title: str, x_label: str, note: str = ""
) -> str:
    """
    Returns a chart of values with their intervals, and a line at 0.

    `rows` has, as `[row][series]`, triples of value, low end and high end; the note is written above the chart.
    """
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    colors = colors_of(["", *names])  # the first colour is the baseline's
    row_height = max(20, 13 * len(names) + 4)
    shown = {row: row if len(row) <= _ROW_NAME else f"{row[: _ROW_NAME - 1]}…" for row in rows}
    left = max(LEFT + 62, 16 + 7 * max(map(len, shown.values()), default=0))  # a character is about 7 pixels wide
    x = axis_of(chain([0.0], *(triple for row in rows.values() for triple in row.values())), left, WIDTH - RIGHT)
    drawn = []
    for place, (row, series) in enumerate(rows.items()):
        middle = TOP + row_height * (place + 0.5)
        bars = []
        for name, triple in series.items():
            value, low, high = map(x, triple)
            at = middle + 13 * (names.index(name) - (len(names) - 1) / 2)
            bars.append({"color": colors[name], "value": value, "low": low, "high": high, "y": at})
        drawn.append({"name": shown[row], "x": left - 10, "y": middle, "bars": bars})
    return draw(
        title=title,
        description=". ".join(f"{row}: {with_interval(*t)}" for row, series in rows.items() for t in series.values()),
        x=x,
        x_label=x_label,
        y_label=note,
        legend={name: colors[name] for name in names},
        height=TOP + row_height * max(1, len(rows)) + BOTTOM,
        zero=x(0),
        rows=drawn,
    )


def _path(points: Sequence[Point], x: Axis, y: Axis) -> str:
    runs = (run for finite, run in groupby(points, _is_finite) if finite)
    return " ".join("M" + " L".join(f"{x(a)},{y(b)}" for a, b in run) for run in runs)


def _kinds(
    points: Sequence[Point], smooth: bool, behind: Sequence[Sequence[Point]]
) -> list[tuple[str, Sequence[Point]]]:
    """Returns the lines to draw for a series, from back to front, each with its CSS class."""
    thin = [("thin", run) for run in behind]
    if not smooth or len(points) < _MIN_SMOOTHED:
        return [*thin, ("line", points)]
    return [*thin, ("raw", points), ("smooth", smoothed(points))]


def _step_strips(series: Mapping[str, Sequence[Point]], x: Axis, y: Axis) -> Iterator[dict[str, Any]]:
    """Yields a vertical strip for each step, whose tooltip has the values of all series at that step."""
    colors = colors_of(series)
    at: dict[float, dict[str, float]] = {}
    for name, points in series.items():
        for step, value in filter(_is_finite, points):
            at.setdefault(step, {})[name] = value
    steps = sorted(at)
    borders = [x.start, *((x(a) + x(b)) / 2 for a, b in pairwise(steps)), x.end]
    for step, (left, right) in zip(steps, pairwise(borders), strict=bool(steps)):
        dots = [{"x": x(step), "y": y(value), "color": colors[name]} for name, value in at[step].items()]
        texts = [f"step {step:g}", *(f"{name}: {number(value)}" for name, value in at[step].items())]
        yield {"left": round(left, 1), "right": round(right, 1), "dots": dots, "tooltip": "\n".join(texts)}


def _label(name: str, places: Mapping[str, Point]) -> dict[str, Any]:
    """Returns the position of a point's label: beside the point, or lower if it would cover another label."""
    px, py = places[name]
    left, right = _label_span(name, px)
    near = (_label_span(other, a) for other, (a, b) in places.items() if other < name and abs(py - b) < 14)
    overlaps = any(left < other_right and other_left < right for other_left, other_right in near)
    x, anchor = (right, "end") if right < px else (left, "start")
    return {"x": x, "y": py + (16 if overlaps else 4), "anchor": anchor}


def _label_span(name: str, px: float) -> Point:
    """Returns the horizontal ends of a label: to the right of its point, or to the left if there is no room."""
    width = 7 * len(name)
    return (px - 9 - width, px - 9) if px > WIDTH - RIGHT - width - 12 else (px + 9, px + 9 + width)


def _edges(values: Sequence[float], bins: int) -> list[float]:
    axis = axis_of(values, 0, 1, margin=0)
    step = nice_step((axis.high - axis.low) / bins)
    integers = all(value == int(value) for value in values)
    step = max(1.0, math.ceil(step)) if integers else step
    first = math.floor(axis.low / step + 1e-9)
    last = math.floor(axis.high / step + 1e-9) + 1
    if not integers and math.isclose((last - 1) * step, axis.high, rel_tol=1e-9):
        last -= 1  # the largest value closes the last bin: a reward of exactly 1 needs no bin beyond 1
    return [i * step for i in range(first, last + 1)]


def _shares(values: Sequence[float], edges: Sequence[float]) -> list[float]:
    places = np.floor((np.asarray(values) - edges[0]) / (edges[1] - edges[0]) + 1e-9).astype(int)
    counts = np.bincount(np.minimum(places, len(edges) - 2), minlength=len(edges) - 1)
    return [float(count) / len(values) for count in counts]


def _steps(shares: Sequence[float], edges: Sequence[float], x: Axis, y: Axis) -> str:
    tops = (f"V{y(100 * share)} H{x(right)}" for share, right in zip(shares, edges[1:], strict=True))
    return f"M{x(edges[0])},{y.start} {' '.join(tops)} V{y.start}"


def _is_finite(point: Point) -> bool:
    return all(map(math.isfinite, point))


def _first_and_last(points: Sequence[Point]) -> str:
    values = [value for _, value in points if math.isfinite(value)]
    return f"from {number(values[0])} to {number(values[-1])}" if values else "no values"
