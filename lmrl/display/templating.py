"""The Jinja environment of charts, of cards in notebooks, and of the report."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from .wording import number

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **variables: Any) -> str:
    """
    Returns a template of this package filled with the variables; what is put into `.html` and `.svg` is escaped.

    Raises:
        `jinja2.UndefinedError`: if the template uses a variable that is not given.
    """
    return _environment().get_template(template).render(variables)


def environment(folders: Sequence[Path], filters: Sequence[Callable[..., object]]) -> Environment:
    """Returns an environment with the templates of these folders and of this package, and filters by their names."""
    made = Environment(
        loader=FileSystemLoader([*folders, TEMPLATES]),
        autoescape=select_autoescape(["html", "svg"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters.update({function.__name__: function for function in filters})
    return made


@cache
def _environment() -> Environment:
    return environment((), (number,))
