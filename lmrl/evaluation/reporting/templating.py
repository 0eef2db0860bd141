"""The Jinja templates of the report and the model card."""

from pathlib import Path

from lmrl.display.templating import renderer
from lmrl.display.wording import direction, known, listed, number, p_value

from ..comparison import difference_text, score_text
from .markdown import code, fenced, plain

TEMPLATES = Path(__file__).parent / "templates"

_OF_VALUES = (difference_text, direction, known, listed, number, p_value, score_text)
render = renderer(TEMPLATES, code, fenced, plain, *_OF_VALUES)
