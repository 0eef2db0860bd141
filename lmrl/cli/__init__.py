"""The command line of the recipes: turns YAML and flags into dataclasses, prints help, and errors in one line."""

from typing import TYPE_CHECKING, Any

from .errors import run
from .process import recipe_arguments

if TYPE_CHECKING:
    from .parser import parse, read_yaml

__all__ = ["parse", "read_yaml", "recipe_arguments", "run"]


def __getattr__(name: str) -> Any:
    """Returns a function of the parser, which is imported at first use, as it imports TRL and so torch."""
    if name not in ("parse", "read_yaml"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import parser

    return getattr(parser, name)
