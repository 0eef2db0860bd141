"""The Jinja templates of charts, of cards in notebooks, and of the report."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from .wording import number

TEMPLATES = Path(__file__).parent / "templates"


def renderer(folder: Path, *filters: Callable[..., object]) -> Callable[..., str]:
    """
    Returns a function that fills a template, named by its file in `folder` or in this package, with variables.

    Templates can use `filters` by the names of the functions. Values in `.html` and `.svg` are escaped. A missing
    variable raises `jinja2.UndefinedError`.
    """
    environment = Environment(
        loader=FileSystemLoader([folder, TEMPLATES]),
        autoescape=select_autoescape(["html", "svg"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update({function.__name__: function for function in filters})

    def render(template: str, **variables: Any) -> str:
        """Returns a template filled with variables."""
        return environment.get_template(template).render(variables)

    return render


render = renderer(TEMPLATES, number)
