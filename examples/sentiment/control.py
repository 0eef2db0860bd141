"""A reward that knows nothing of the sentiment of a text, for a control run."""

import zlib
from typing import Any


def coin(completions: list[str], **_: Any) -> list[float]:
    """Returns 0 or 1 for each text, as a coin would: the same text always gets the same."""
    return [float(zlib.crc32(text.encode()) % 2) for text in completions]
