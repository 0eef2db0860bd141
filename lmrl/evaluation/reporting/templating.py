"""The Jinja environment of the report and the model card."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from . import markdown, wording

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **context: Any) -> str:
    """
    Returns a template of this package, filled in; what is put into an `.html` template is escaped.

    Args:
        template (`str`):
            File name of the template.
        **context:
            Variables of the template.

    Raises:
        `jinja2.UndefinedError`: if the template uses a variable that is not given.
    """
    return _environment().get_template(template).render(context)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: list[Callable[..., str]] = [
        markdown.code,
        markdown.fenced,
        markdown.plain,
        wording.direction,
        wording.listed,
        wording.number,
        wording.p_value,
        wording.score_text,
    ]
    environment.filters.update({function.__name__: function for function in filters})
    return environment
