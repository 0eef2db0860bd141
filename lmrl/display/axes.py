"""Scales, and the frame that all charts share."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .templating import render

WIDTH, HEIGHT = 440, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 50, 44  # margins


@dataclass(frozen=True)
class Axis:
    """A linear scale from the values `low` to `high`, which differ, to the pixels `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Returns the pixel of a value, to a tenth."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    def ticks(self) -> list[tuple[float, str]]:
        """Returns the pixels and the labels of the round values between the ends."""
        values = nice_ticks(self.low, self.high)
        return list(zip(map(self, values), tick_labels(values), strict=True))


def axis_of(values: Iterable[float], start: float, end: float, *, margin: float = 0.05) -> Axis:
    """Returns an axis for all finite values, with a margin in shares of their span; from 0 to 1 if there are none."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return Axis(0.0, 1.0, start, end)
    low, high = min(finite), max(finite)
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # a constant, up to rounding
        return Axis(low - abs(low) / 10, high + (abs(high) / 10 or 1.0), start, end)
    return Axis(low - margin * (high - low), high + margin * (high - low), start, end)


def nice_step(least: float) -> float:
    """Returns the smallest of 1, 2, 2.5 and 5 times powers of ten that is at least a number above 0."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= least * (1 - 1e-9))


def nice_ticks(low: float, high: float) -> list[float]:
    """Returns about 5 multiples of a [`nice_step`] from `low` to `high`, which differ."""
    step = nice_step((high - low) / 5)
    return [i * step + 0.0 for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Returns the ticks as short texts that all differ: `0.25` and `0.50`, `1,500`, `20k`, `2e-05`."""
    largest = max(map(abs, ticks), default=0.0)
    for limit, unit, sign in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if largest >= limit:
            return [f"{tick / unit:,.10g}{sign}" if tick else "0" for tick in ticks]
    if 0 < largest < 1e-3:
        return [_exponential(tick) if tick else "0" for tick in ticks]
    step = min((b - a for a, b in pairwise(ticks)), default=1.0)
    decimals = next((d for d in range(6) if math.isclose(round(step, d), step, rel_tol=1e-6)), 6)
    return [f"{tick:,.{decimals}f}" for tick in ticks]


def _exponential(value: float) -> str:
    texts = (f"{value:.{digits}e}" for digits in range(7))
    return next(text for text in texts if math.isclose(float(text), value, rel_tol=1e-6))


def draw(
    *,
    title: str,
    description: str,
    x: Axis,
    x_label: str,
    y: Axis | None = None,
    y_label: str = "",
    legend: Mapping[str, str] | None = None,
    height: int = HEIGHT,
    **marks: object,
) -> str:
    """
    Returns a chart as an SVG document: marks (areas, lines, dots and so on, as `templates/chart.svg` draws them) with
    axes, ticks, a title and a legend.

    `description` describes the values for screen readers. Without `y` the grid has vertical lines. The legend has the
    colour class of each series by name, and is not drawn for a single series.
    """
    return render(
        "chart.svg",
        title=title,
        description=description,
        x_ticks=x.ticks(),
        x_label=x_label,
        y_ticks=y.ticks() if y else [],
        y_label=y_label,
        legend=legend or {},
        width=WIDTH,
        height=height,
        left=LEFT,
        right=WIDTH - RIGHT,
        top=TOP,
        floor=height - BOTTOM,
        **marks,
    )


def colors_of(names: Iterable[str]) -> dict[str, str]:
    """Returns the CSS class that gives each series its colour, by name."""
    return {name: f"s{index % 6}" for index, name in enumerate(names)}
