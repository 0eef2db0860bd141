"""One outcome on all the processes of a run."""

from collections.abc import Callable
from typing import Any, TypeVar

from accelerate.utils import gather_object

T = TypeVar("T")


def together(act: Callable[[], T]) -> T:
    """
    Returns what `act` gives on the first process, once it has been done on all: they meet here.

    Args:
        act (`Callable`):
            What every process does, without waiting for another.

    Raises:
        ValueError, OSError: On every process, if one of them got it: the others would wait for it for ever.
    """
    outcome: dict[str, Any] = {}
    try:
        outcome["value"] = act()
    except (ValueError, OSError) as error:
        outcome["error"] = error
    everyone = gather_object([outcome])
    for other in [outcome, *everyone]:  # its own first, with its traceback
        if "error" in other:
            raise other["error"]
    value: T = everyone[0]["value"]
    return value
