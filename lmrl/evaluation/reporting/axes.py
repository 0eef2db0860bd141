"""What every chart has: scales with round ticks, a frame, colours that colour-blind people tell apart."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

WIDTH, HEIGHT = 440, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 50, 44

# Okabe and Ito's palette: the darker signs on white, the lighter on black.
SERIES = 6
_LIGHT = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B07800", "#5D5D5D")
_DARK = ("#56B4E9", "#FF8A3C", "#2FCBA0", "#E59AC6", "#F0C24B", "#B8B8B8")
_STYLE = (
    "svg.chart{font:12px system-ui,sans-serif}svg.chart text{fill:#555}svg.chart .name{font-weight:600;fill:#222}"
    "svg.chart .hollow{fill:#fff;stroke-width:2}"
    ".halo{stroke:#fff;stroke-width:4;stroke-linejoin:round;paint-order:stroke}"
    ".grid{stroke:#8883;stroke-width:1}.axis{stroke:#888}.hit circle:not(.dot){opacity:0}.hit:hover circle{opacity:1}"
    + "".join(f".s{i}{{color:{color}}}" for i, color in enumerate(_LIGHT))
    + "@media(prefers-color-scheme:dark){svg.chart text{fill:#aaa}svg.chart .name{fill:#eee}"
    + "svg.chart .hollow{fill:#1b2025}.halo{stroke:#1b2025}"
    + "".join(f".s{i}{{color:{color}}}" for i, color in enumerate(_DARK))
    + "}"
)


@dataclass(frozen=True)
class Axis:
    """
    A linear scale from values to pixels.

    Args:
        low (`float`):
            Smallest value.
        high (`float`):
            Largest value, above `low`.
        start (`float`):
            Pixel of `low`.
        end (`float`):
            Pixel of `high`.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Returns the pixel of a value, to a tenth."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    @property
    def ticks(self) -> list[float]:
        """The round values between the ends."""
        return nice_ticks(self.low, self.high)

    @property
    def labels(self) -> list[str]:
        """What is written at the ticks."""
        return tick_labels(self.ticks)


@dataclass(frozen=True)
class LogAxis(Axis):
    """A logarithmic scale, of values above 0."""

    def __call__(self, value: float) -> float:
        """Returns the pixel of a value, to a tenth."""
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return round(self.start + share * (self.end - self.start), 1)

    @property
    def ticks(self) -> list[float]:
        """The powers of ten between the ends, with 2 and 5 times them where there are few."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for digits in ((1,), (1, 3), (1, 2, 5)):
            found = [float(f"{digit}e{power}") for power in powers for digit in digits]
            inside = [tick for tick in found if self.low * (1 - 1e-9) <= tick <= self.high * (1 + 1e-9)]
            if len(inside) >= 3:
                break
        return inside

    @property
    def labels(self) -> list[str]:
        """What is written at the ticks."""
        return [f"{tick:g}" for tick in self.ticks]


@dataclass(frozen=True)
class NamedAxis(Axis):
    """A scale with a place for each of some names, at 0, 1 and so on."""

    names: tuple[str, ...] = ()

    @property
    def ticks(self) -> list[float]:
        """The places of the names."""
        return [float(place) for place in range(len(self.names))]

    @property
    def labels(self) -> list[str]:
        """The names, cut where they would run into each other."""
        most = max(3, int((self.end - self.start) / max(1, len(self.names)) / 7))
        return [name if len(name) <= most else f"{name[: most - 1]}…" for name in self.names]


def axis_of(values: Iterable[float], start: float, end: float, *, margin: float = 0.05) -> Axis:
    """
    Returns the axis that shows all finite values with a margin; 0 to 1 if there are none.

    Args:
        values (iterable of `float`):
            What will be drawn.
        start (`float`):
            Pixel of the low end.
        end (`float`):
            Pixel of the high end.
        margin (`float`, *optional*, defaults to `0.05`):
            Share of the span left free on either side.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return Axis(0.0, 1.0, start, end)
    low, high = min(finite), max(finite)
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # a constant, up to rounding
        return Axis(low - abs(low) / 10, high + (abs(high) / 10 or 1.0), start, end)
    return Axis(low - margin * (high - low), high + margin * (high - low), start, end)


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """
    Returns about `count` multiples of 1, 2, 2.5 or 5 times a power of ten from `low` to `high`.

    Args:
        low (`float`):
            The smallest.
        high (`float`):
            The largest, above `low`.
        count (`int`, *optional*, defaults to `5`):
            About how many.
    """
    power = 10.0 ** math.floor(math.log10((high - low) / count))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= (high - low) / count * (1 - 1e-9))
    return [i * step + 0.0 for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Returns the ticks as short text with the same number of decimals: `0.25`, `1,500`, `20k`, `2e-05`."""
    most = max(map(abs, ticks), default=0.0)
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if most >= size:
            return [f"{tick / (1e3 if sign == 'k' else size):,g}{sign}" if tick else "0" for tick in ticks]
    if 0 < most < 1e-3:
        return [f"{tick:.3g}" for tick in ticks]
    step = min((b - a for a, b in pairwise(ticks)), default=1.0)
    decimals = next((d for d in range(6) if math.isclose(round(step, d), step, rel_tol=1e-6)), 6)
    return [f"{tick:,.{decimals}f}" for tick in ticks]


def framed(
    marks: Iterable[str],
    *,
    title: str,
    description: str,
    x: Axis,
    x_label: str,
    y: Axis | None = None,
    y_label: str = "",
    legend: Mapping[str, int] | None = None,
    height: int = HEIGHT,
) -> str:
    """
    Returns an SVG document of the marks with axes, ticks, a title and a legend.

    Args:
        marks (iterable of `str`):
            SVG elements.
        title (`str`):
            Shown on top, and what a screen reader says first.
        description (`str`):
            What the chart shows, in words.
        x (`Axis`):
            The horizontal scale.
        x_label (`str`):
            Its name and unit.
        y (`Axis`, *optional*):
            The vertical scale; without it there are no horizontal lines.
        y_label (`str`, *optional*, defaults to `""`):
            Its name and unit.
        legend (`dict` of `int`, *optional*):
            The colour of each series by its name; one alone needs none.
        height (`int`, *optional*, defaults to `260`):
            Of the whole picture.
    """
    floor = height - BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" viewBox="0 0 {WIDTH} {height}">',
        f"<title>{escape(title)}</title><desc>{escape(description)}</desc><style>{_STYLE}</style>",
        f'<text class="name" x="12" y="18">{escape(title)}</text>',
        *_legend(legend or {}),
        *_x_ticks(x, floor, grid=y is None),
        *(_y_ticks(y) if y else []),
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{height - 8}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text x="12" y="{TOP - 12}">{escape(y_label)}</text>' if y_label else "",
        *marks,
        "</svg>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def color(index: int) -> str:
    """Returns the class that gives the series of this index its colour."""
    return f"s{index % SERIES}"


def _x_ticks(x: Axis, floor: float, *, grid: bool) -> Iterable[str]:
    for tick, label in zip(x.ticks, x.labels, strict=True):
        kind, top = ("grid", TOP) if grid else ("axis", floor)
        yield f'<line class="{kind}" x1="{x(tick)}" x2="{x(tick)}" y1="{top}" y2="{floor + (0 if grid else 4)}"/>'
        yield f'<text class="tick" x="{x(tick)}" y="{floor + 18}" text-anchor="middle">{label}</text>'


def _y_ticks(y: Axis) -> Iterable[str]:
    for tick, label in zip(y.ticks, y.labels, strict=True):
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick)}" y2="{y(tick)}"/>'
        yield f'<text class="tick" x="{LEFT - 8}" y="{y(tick)}" dy="4" text-anchor="end">{label}</text>'


def _legend(colors: Mapping[str, int]) -> Iterable[str]:
    if len(colors) < 2:
        return
    right = float(WIDTH - RIGHT)
    most = max(4, int((right / len(colors) - 24) / 6.8))  # characters of a name that fit
    for name, index in reversed(list(colors.items())):
        shown = name if len(name) <= most else name[: most - 1] + "…"
        right -= 6.8 * len(shown) + 22
        swatch = f'<rect x="{right:.0f}" y="28" width="10" height="10" rx="2" fill="currentColor"/>'
        yield f'<g class="{color(index)}">{swatch}<text x="{right + 14:.0f}" y="37">{escape(shown)}</text></g>'
