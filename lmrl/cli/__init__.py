"""The command line of the recipes: YAML and flags into dataclasses, their help, and errors in one line."""

from .errors import run
from .inspection import recipe_arguments
from .parser import parse

__all__ = ["parse", "recipe_arguments", "run"]
