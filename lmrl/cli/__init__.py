"""The command line of the recipes: YAML and flags into dataclasses, their help, and errors in one line."""

from typing import TYPE_CHECKING, Any

from .errors import run

if TYPE_CHECKING:
    from .inspection import recipe_arguments
    from .parser import parse, read_yaml

__all__ = ["parse", "read_yaml", "recipe_arguments", "run"]

_MODULES = {"parse": "parser", "read_yaml": "parser", "recipe_arguments": "inspection"}


def __getattr__(name: str) -> Any:
    """Returns a function, loaded at its first use: TRL, which the parser is made of, loads torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
