"""Checks and messages that every room uses. Standard library only."""

import difflib
import math
from collections.abc import Collection, Iterable


def check_at_least(minimum: float, **values: float | None) -> None:
    """
    Raises an error for the first value below a minimum; `None` is no value and passes.

    Args:
        minimum (`float`):
            Smallest allowed value.
        **values (`float`, *optional*):
            Values by the names under which users know them.

    Raises:
        ValueError: If a value is below the minimum or NaN.
    """
    for name, value in values.items():
        if value is not None and not value >= minimum:
            raise ValueError(f"`{name}` must be at least {minimum}, got {value}.")


def check_finite(**values: float) -> None:
    """Raises a `ValueError` for the first value that is infinite or NaN; values as in [`check_at_least`]."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"`{name}` must be finite, got {value}.")


def check_in(choices: Collection[str], **values: str | None) -> None:
    """
    Raises an error for the first value that is not one of the choices; `None` is no value and passes.

    Args:
        choices (collection of `str`):
            Allowed values.
        **values (`str`, *optional*):
            Values by the names under which users know them.

    Raises:
        ValueError: If a value is not one of the choices, with the closest choice if one is close.
    """
    for name, value in values.items():
        if value is not None and value not in choices:
            raise ValueError(
                f"`{name}` must be one of {', '.join(choices)}, got {value!r}.{did_you_mean(str(value), choices)}"
            )


def did_you_mean(name: str, known: Iterable[str], prefix: str = "", cutoff: float = 0.6) -> str:
    """
    Returns ` Did you mean `<closest>`?`, to be appended to a message, or an empty string if nothing is close.

    Args:
        name (`str`):
            The unknown name.
        known (iterable of `str`):
            Names to choose from.
        prefix (`str`, *optional*, defaults to `""`):
            Written before the closest name, for example `--`.
        cutoff (`float`, *optional*, defaults to `0.6`):
            Least similarity in [0, 1].
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f" Did you mean `{prefix}{close[0]}`?" if close else ""


def shorten(value: object, limit: int = 80) -> str:
    """Returns the `repr` of a value, cut after `limit` characters with an ellipsis."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def reason_of(error: Exception) -> str:
    """Returns the first line of a library's error, after its type unless that is an `OSError` or `ValueError`."""
    line = str(error).strip().split("\n")[0].rstrip(".")
    return line if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {line}"
