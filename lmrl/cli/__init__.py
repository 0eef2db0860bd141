"""The command line of the recipes: YAML and flags into dataclasses, their help, and errors in one line."""

from .errors import run
from .inspection import recipe_arguments
from .parser import parse, read_yaml

__all__ = ["parse", "read_yaml", "recipe_arguments", "run"]
