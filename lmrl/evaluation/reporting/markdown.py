"""Markdown in which a user's text stays text."""

import re
from collections.abc import Sequence


def code(text: object) -> str:
    """
    Returns a text as a code span on one line, whatever it holds: nothing in it is markup, and a table keeps its cells.

    Args:
        text (`object`):
            Made a string first.
    """
    line = " ".join(str(text).split()).replace("|", "\\|")
    ticks = "`" * (_longest_run(line) + 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{space}{line}{space}{ticks}" if line else ""


def fenced(text: str, language: str = "") -> str:
    """
    Returns a text as a block of code, in a fence longer than any in it.

    Args:
        text (`str`):
            The lines.
        language (`str`, *optional*, defaults to `""`):
            What it is written in.
    """
    ticks = "`" * max(3, _longest_run(text) + 1)
    return f"{ticks}{language}\n{text}\n{ticks}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: bool = False) -> str:
    """
    Returns a table of cells that are Markdown already.

    Args:
        head (list of `str`):
            Names of the columns.
        rows (list of lists of `str`):
            One cell per column.
        right (`bool`, *optional*, defaults to `False`):
            Whether all columns but the first stand on the right.
    """
    rule = ["---"] + ["---:" if right else "---"] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def bullets(lines: Sequence[str]) -> str:
    """Returns a list of lines that are Markdown already."""
    return "\n".join(f"- {line}" for line in lines)


def plain(text: object) -> str:
    """
    Returns a text on one line, with the characters that mean something in Markdown or HTML escaped.

    Args:
        text (`object`):
            Made a string first.
    """
    return re.sub(r"([\\`*_\[\]<>#|~$])", r"\\\1", " ".join(str(text).split()))


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
