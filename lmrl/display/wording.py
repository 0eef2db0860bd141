"""Numbers, names and settings as text."""

import math
from collections.abc import Sequence
from typing import Any


def number(value: float, sign: str = "") -> str:
    """
    Returns a number as text: two decimals from 1 on, four below 1, exponential notation near 0; `n/a` for NaN.

    A number below a millionth counts as a rounding error and is written as 0. `sign="+"` marks positive numbers.
    """
    if not math.isfinite(value):
        return "n/a" if math.isnan(value) else str(value)
    if abs(value) < 1e-6:
        return f"{0:{sign}.2f}"
    if abs(value) >= 1:
        return f"{value:{sign}.2f}"
    return f"{value:{sign}.4f}" if abs(value) >= 5e-4 else f"{value:{sign}.1e}"


def known(value: Any) -> Any:
    """Returns a value read from JSON, or each of a list, with NaN in place of `None`."""
    if isinstance(value, list):
        return [known(part) for part in value]
    return math.nan if value is None else value


def with_interval(value: float, low: float, high: float, sign: str = "+") -> str:
    """Returns a value and its interval as text: `+1.23 [+0.56, +1.89]`; the value alone if the ends are NaN."""
    if math.isnan(low):
        return number(value, sign)
    parts = [value, low, high]
    # The same decimals in all three, unless that would hide on which side of 0 an end is.
    if max(map(abs, parts)) >= 1 and all(part == 0 or abs(part) >= 0.01 for part in parts):
        texts = [f"{part:{sign}.2f}" for part in parts]
    else:
        texts = [number(part, sign) for part in parts]
    return "{} [{}, {}]".format(*texts)


def p_value(p: float) -> str:
    """Returns a p-value as text: `0.031`, `<0.001`, an empty string for NaN."""
    if math.isnan(p):
        return ""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def listed(names: Sequence[str]) -> str:
    """Returns names as an enumeration: `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def counted(count: int, noun: str) -> str:
    """Returns a number of things as text: `1 row`, `1,234 rows`."""
    return f"{count:,} {noun}{'s' if count != 1 else ''}"


def direction(higher_is_better: bool | None) -> str:
    """Returns an arrow that points to better values, an empty string for `None`."""
    if higher_is_better is None:
        return ""
    return "↑" if higher_is_better else "↓"


def setting_text(value: object) -> str:
    """Returns a setting as text, a function or a class by its name."""
    return str(getattr(value, "__name__", value))
