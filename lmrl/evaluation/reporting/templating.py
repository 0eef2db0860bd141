"""The Jinja environment of the report and the model card."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment

from lmrl.display.templating import environment
from lmrl.display.wording import direction, known, listed, number, p_value

from ..comparison import difference_text, score_text
from .markdown import code, fenced, plain

TEMPLATES = Path(__file__).parent / "templates"
_FILTERS: tuple[Callable[..., object], ...] = (
    *(code, fenced, plain),
    *(difference_text, direction, known, listed, number, p_value, score_text),
)


def render(template: str, **variables: Any) -> str:
    """
    Returns a template of this package filled with the variables; what is put into `.html` is escaped.

    Raises:
        `jinja2.UndefinedError`: if the template uses a variable that is not given.
    """
    return _environment().get_template(template).render(variables)


@cache
def _environment() -> Environment:
    return environment((TEMPLATES,), _FILTERS)
