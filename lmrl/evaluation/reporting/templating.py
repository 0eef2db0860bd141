"""The Jinja environment of the report and the model card."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from .markdown import code, fenced, plain
from .wording import difference_text, direction, known, listed, number, p_value, score_text

TEMPLATES = Path(__file__).parent / "templates"
_FILTERS: tuple[Callable[..., object], ...] = (
    *(code, fenced, plain),
    *(difference_text, direction, known, listed, number, p_value, score_text),
)


def render(template: str, **variables: Any) -> str:
    """
    Returns a template of this package filled with the variables; what is put into `.html` and `.svg` is escaped.

    Raises:
        `jinja2.UndefinedError`: if the template uses a variable that is not given.
    """
    return _environment().get_template(template).render(variables)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(["html", "svg"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update({function.__name__: function for function in _FILTERS})
    return environment
