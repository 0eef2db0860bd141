"""The arguments of a recipe as JSON, for programs that run the recipe."""

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

PRINT_ARGUMENTS = "--print_arguments"


def arguments_as_json(parsed: Iterable[Any]) -> str:
    """Returns the type and the value of each field of parsed dataclasses by name, except for tokens, in one line."""
    arguments = {}
    for group in parsed:
        hints = get_type_hints(type(group))
        for field in fields(group):
            hint = hints[field.name]
            if field.init and not field.name.endswith("_token"):
                type_name = hint.__name__ if isinstance(hint, type) else str(hint)
                arguments[field.name] = {"type": type_name, "value": getattr(group, field.name)}
    return json.dumps(arguments, default=str)


def recipe_arguments(command: Sequence[str]) -> dict[str, dict[str, Any]] | None:
    """
    Returns the arguments of a recipe, each with its `type` and `value`; `None` if its parser is not lmrl's.

    Args:
        command (list of `str`):
            The recipe's file and its arguments, which the recipe checks.

    Raises:
        ValueError: If the recipe does not accept the arguments.
    """
    source = Path(command[0]).read_text(encoding="utf-8")
    if not re.search(r"from lmrl\.cli import (?:.*|\([^)]*)\bparse\b", source):  # in one line or in several
        return None
    run = subprocess.run([sys.executable, *command, PRINT_ARGUMENTS], capture_output=True, text=True, check=False)
    if run.returncode:
        lines = run.stderr.strip().splitlines() or [f"exit status {run.returncode}"]
        raise ValueError(lines[-1].removeprefix("error: "))
    return dict(json.loads(run.stdout.splitlines()[-1]))
