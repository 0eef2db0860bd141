"""Escaping of text for Markdown."""

import re


def code(text: object) -> str:
    """Returns a text as a code span on one line, in which nothing is markup and `|` does not end a table's cell."""
    line = " ".join(str(text).split()).replace("|", "\\|")
    ticks = "`" * (_longest_run(line) + 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{space}{line}{space}{ticks}" if line else ""


def fenced(text: str, language: str = "") -> str:
    """Returns a text as a code block of a language, in a fence longer than any fence inside."""
    ticks = "`" * max(3, _longest_run(text) + 1)
    return f"{ticks}{language}\n{text}\n{ticks}"


def plain(text: object) -> str:
    """Returns a text on one line, with the special characters of Markdown and HTML escaped."""
    return re.sub(r"([\\`*_\[\]<>#|~$])", r"\\\1", " ".join(str(text).split()))


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
