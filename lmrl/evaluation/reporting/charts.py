"""
Charts as SVG text: lines, a scatter, histograms, intervals. Each is a document of its own:

    Path("frontier.svg").write_text(scatter({"sft": (0, 0.43), "ppo": (4.1, 0.67)}, title="...", ...))
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import chain, groupby, pairwise

from .axes import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, axis_of, color, framed, nice_ticks
from .wording import number, with_interval

Point = tuple[float, float]
_FEW = 30
_PLOT = (LEFT, WIDTH - RIGHT), (HEIGHT - BOTTOM, TOP)


def lines(series: Mapping[str, Sequence[Point]], *, title: str, x_label: str = "step", y_label: str = "") -> str:
    """
    Returns a line chart; a value that is not finite breaks its line, and few values have dots.

    Args:
        series (`dict` of lists of pairs of `float`):
            Points by name, from left to right; an empty list keeps its colour from the others.
        title (`str`):
            What is shown.
        x_label (`str`, *optional*, defaults to `"step"`):
            Name of the horizontal axis.
        y_label (`str`, *optional*, defaults to `""`):
            Name of the vertical axis.
    """
    x = axis_of((x for points in series.values() for x, _ in points), *_PLOT[0], margin=0.02)
    y = axis_of((y for points in series.values() for _, y in points), *_PLOT[1])
    marks: list[str] = []
    for index, points in enumerate(series.values()):
        marks.append(_line(points, x, y, index))
        if len(points) <= _FEW:
            finite = (point for point in points if all(map(math.isfinite, point)))
            marks += [_circle(x(a), y(b), 2.4, f"dot {color(index)}") for a, b in finite]
    words = [f"{name}: {_ends([y for _, y in points])}" for name, points in series.items()]
    return framed(
        chain(marks, _tooltips(series, x, y, x_label)),
        title=title,
        description=". ".join(words),
        x=x,
        y=y,
        x_label=x_label,
        y_label=y_label,
        legend={name: index for name, index in _colors(series).items() if series[name]},
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
    Returns a chart of labelled points, and of trails as fine lines with dots that are the darker the later they are.

    Args:
        points (`dict` of pairs of `float`):
            Places by label; one that is not finite is left out.
        title (`str`):
            What is shown.
        x_label (`str`):
            Name of the horizontal axis.
        y_label (`str`):
            Name of the vertical axis.
        trails (`dict` of lists of pairs of `float`, *optional*):
            Further points in their order, by name.
    """
    trails = trails or {}
    everything = [*points.values(), *chain.from_iterable(trails.values())]
    x = axis_of((x for x, _ in everything), *_PLOT[0])
    y = axis_of((y for _, y in everything), *_PLOT[1], margin=0.08)
    marks: list[str] = []
    for index, (name, trail) in enumerate(trails.items()):
        marks += [_line(trail, x, y, index, faint=True), *_dots(name, trail, x, y, index)]
    shown = {name: at for name, at in points.items() if all(map(math.isfinite, at))}
    places = {name: (x(at[0]), y(at[1])) for name, at in shown.items()}
    for index, name in enumerate(points):
        if name in shown:
            marks.append(_labelled(name, shown[name], places, index))
    words = [f"{name}: {number(at[0])}, {number(at[1])}" for name, at in points.items()]
    return framed(
        marks,
        title=title,
        description=f"{x_label}, {y_label}. " + ". ".join(words),
        x=x,
        y=y,
        x_label=x_label,
        y_label=y_label,
        legend={name: index for name, index in _colors(trails).items() if trails[name]},
    )


def histogram(values: Mapping[str, Sequence[float]], *, title: str, x_label: str, bins: int = 20) -> str:
    """
    Returns the histograms of several samples over each other, as shares, with a dashed line at each mean.

    Args:
        values (`dict` of lists of `float`):
            Samples by name; what is not finite is left out.
        title (`str`):
            What is shown.
        x_label (`str`):
            Name of the values.
        bins (`int`, *optional*, defaults to `20`):
            About how many bins.
    """
    kept = {name: [value for value in sample if math.isfinite(value)] for name, sample in values.items()}
    everything = list(chain.from_iterable(kept.values()))
    edges = _edges(everything, bins)
    shares = {name: _shares(sample, edges) for name, sample in kept.items()}
    x = Axis(edges[0], edges[-1], *_PLOT[0])
    y = Axis(0.0, 105 * max(chain.from_iterable(shares.values()), default=0.0) or 100.0, *_PLOT[1])
    marks = []
    for index, (name, sample) in enumerate(kept.items()):
        marks.append(_steps(shares[name], edges, x, y, index))
        if sample:
            mean = math.fsum(sample) / len(sample)
            at = f'x1="{x(mean)}" x2="{x(mean)}" y1="{y.start}" y2="{y.end}"'
            marks.append(f'<line class="{color(index)} mean" {at} stroke="currentColor" stroke-dasharray="5 4"/>')
    words = [f"{name}: {_summary(sample)}" for name, sample in kept.items()]
    return framed(
        [*marks, *_bin_tooltips(shares, edges, x, y)],
        title=title,
        description=". ".join(words),
        x=x,
        y=y,
        x_label=x_label,
        y_label="%",
        legend=_colors(values),
    )


def whiskers(rows: Mapping[str, Mapping[str, tuple[float, float, float]]], *, title: str, x_label: str) -> str:
    """
    Returns a chart of values with their intervals around the line at 0; hollow where the interval includes it.

    Args:
        rows (`dict` of `dict` of triples of `float`):
            Value, low and high end by name of the series, by name of the row.
        title (`str`):
            What is shown.
        x_label (`str`):
            Name of the values.
    """
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    line = max(20, 13 * len(names) + 4)
    floor = TOP + line * max(1, len(rows))
    left = LEFT + 62
    x = axis_of(chain([0.0], *(triple for row in rows.values() for triple in row.values())), left, WIDTH - RIGHT)
    marks = [f'<line class="axis" x1="{x(0)}" x2="{x(0)}" y1="{TOP}" y2="{floor}"/>']
    for place, (row, series) in enumerate(rows.items()):
        middle = TOP + line * (place + 0.5)
        marks.append(f'<text x="{left - 10}" y="{middle + 4}" text-anchor="end">{escape(row)}</text>')
        for name, triple in series.items():
            at = middle + 13 * (names.index(name) - (len(names) - 1) / 2)
            marks.append(_whisker(f"{row}, {name}", triple, x, at, 1 + names.index(name)))
    return framed(
        marks,
        title=title,
        description=". ".join(f"{row}: {with_interval(*t)}" for row, series in rows.items() for t in series.values()),
        x=x,
        x_label=x_label,
        legend={name: 1 + index for index, name in enumerate(names)},
        height=floor + BOTTOM,
    )


def _colors(names: Iterable[str]) -> dict[str, int]:
    return {name: index for index, name in enumerate(names)}


def _line(points: Sequence[Point], x: Axis, y: Axis, index: int, *, faint: bool = False) -> str:
    runs = [list(run) for finite, run in groupby(points, lambda p: all(map(math.isfinite, p))) if finite]
    path = " ".join("M" + " L".join(f"{x(a)},{y(b)}" for a, b in run) for run in runs)
    style = 'stroke-width="1" opacity="0.5"' if faint else 'stroke-width="1.8" stroke-linejoin="round"'
    return f'<path class="{color(index)}" d="{path}" fill="none" stroke="currentColor" {style}/>' if path else ""


def _tooltips(series: Mapping[str, Sequence[Point]], x: Axis, y: Axis, x_label: str) -> Iterable[str]:
    at: dict[float, list[tuple[int, str, float]]] = {}
    for index, (name, points) in enumerate(series.items()):
        for a, b in points:
            if math.isfinite(a) and math.isfinite(b):
                at.setdefault(a, []).append((index, name, b))
    places = sorted(at)
    borders = [x.start, *((x(a) + x(b)) / 2 for a, b in pairwise(places)), x.end]
    for place, (left, right) in zip(places, pairwise(borders), strict=bool(places)):
        strip = f'x="{left:.1f}" y="{y.end}" width="{right - left:.1f}" height="{y.start - y.end}"'
        dots = (_circle(x(place), y(value), 4, color(index)) for index, _, value in at[place])
        words = [f"{x_label} {place:g}", *(f"{name}: {number(value)}" for _, name, value in at[place])]
        yield _hit(f'<rect {strip} fill="transparent"/>' + "".join(dots), "\n".join(words))


def _dots(name: str, points: Sequence[Point], x: Axis, y: Axis, index: int) -> Iterable[str]:
    for order, (a, b) in enumerate(points, start=1):
        if math.isfinite(a) and math.isfinite(b):
            dot = _circle(x(a), y(b), 2.8, f"dot {color(index)}")
            words = f"{name}, point {order}: {number(a)}, {number(b)}"
            yield _hit(f'<g opacity="{0.2 + 0.8 * order / len(points):.2f}">{dot}</g>', words)


def _labelled(name: str, at: Point, places: Mapping[str, Point], index: int) -> str:
    px, py = places[name]
    left, right = _span(name, px)
    # A label goes under its point where that of a neighbour would cover it.
    near = (_span(n, a) for n, (a, b) in places.items() if n < name and abs(py - b) < 14)
    crowded = any(left < other_right and other_left < right for other_left, other_right in near)
    x, anchor = (right, "end") if right < px else (left, "start")
    label = f'<text class="name halo" x="{x}" y="{py + (16 if crowded else 4)}" text-anchor="{anchor}"'
    words = f"{name}: {number(at[0])}, {number(at[1])}"
    return _hit(_circle(px, py, 5.5, f"dot {color(index)}") + f"{label}>{escape(name)}</text>", words)


def _span(name: str, px: float) -> Point:
    """Returns where a label begins and ends: on the right of its point, or on the left where there is more room."""
    width = 7 * len(name)
    return (px - 9 - width, px - 9) if px > WIDTH - RIGHT - width - 12 else (px + 9, px + 9 + width)


def _edges(values: Sequence[float], bins: int) -> list[float]:
    axis = axis_of(values, 0, 1, margin=0)
    inner = nice_ticks(axis.low, axis.high, bins)
    step = inner[1] - inner[0]
    whole = all(value == int(value) for value in values)
    step = max(1.0, math.ceil(step)) if whole else step
    first, last = math.floor(axis.low / step + 1e-9), math.floor(axis.high / step + 1e-9) + 1
    if not whole and math.isclose((last - 1) * step, axis.high, rel_tol=1e-9):
        last -= 1  # the largest value closes the last bin: a reward of exactly 1 needs no bin beyond 1
    return [i * step for i in range(first, last + 1)]


def _shares(values: Sequence[float], edges: Sequence[float]) -> list[float]:
    counts = [0] * (len(edges) - 1)
    for value in values:
        place = math.floor((value - edges[0]) / (edges[1] - edges[0]) + 1e-9)
        counts[min(place, len(counts) - 1)] += 1
    return [count / len(values) if values else 0.0 for count in counts]


def _steps(shares: Sequence[float], edges: Sequence[float], x: Axis, y: Axis, index: int) -> str:
    tops = (f"V{y(100 * share)} H{x(right)}" for share, right in zip(shares, edges[1:], strict=True))
    path = f"M{x(edges[0])},{y.start} {' '.join(tops)} V{y.start}"
    style = 'fill="currentColor" fill-opacity="0.22" stroke="currentColor" stroke-width="1.2"'
    return f'<path class="{color(index)}" d="{path}" {style}/>'


def _bin_tooltips(shares: Mapping[str, Sequence[float]], edges: Sequence[float], x: Axis, y: Axis) -> Iterable[str]:
    for place, (left, right) in enumerate(pairwise(edges)):
        words = [f"{number(left)} to {number(right)}", *(f"{n}: {100 * s[place]:.1f} %" for n, s in shares.items())]
        strip = f'x="{x(left)}" y="{y.end}" width="{x(right) - x(left):.1f}" height="{y.start - y.end}"'
        yield _hit(f'<rect {strip} fill="transparent"/>', "\n".join(words))


def _whisker(name: str, triple: tuple[float, float, float], x: Axis, y: float, index: int) -> str:
    value, low, high = map(x, triple)
    clear = triple[1] > 0 or triple[2] < 0
    line = f'<line x1="{low}" x2="{high}" y1="{y}" y2="{y}" stroke="currentColor" stroke-width="2"/>'
    kind = "dot" if clear else "dot hollow"
    dot = _circle(value, y, 4.5, kind)
    return _hit(f'<g class="{color(index)}">{line}{dot}</g>', f"{name}: {with_interval(*triple)}")


def _circle(x: float, y: float, radius: float, kind: str) -> str:
    return f'<circle class="{kind}" cx="{x}" cy="{y}" r="{radius}" fill="currentColor" stroke="currentColor"/>'


def _hit(marks: str, words: str) -> str:
    return f'<g class="hit">{marks}<title>{escape(words)}</title></g>'


def _ends(values: Sequence[float]) -> str:
    finite = [value for value in values if math.isfinite(value)]
    return f"from {number(finite[0])} to {number(finite[-1])}" if finite else "no values"


def _summary(sample: Sequence[float]) -> str:
    return f"mean {number(math.fsum(sample) / len(sample))} of {len(sample)}" if sample else "no values"
