"""Griffe extension that turns docstrings of the form that TRL uses into the form that mkdocstrings reads."""

import re
from typing import Any

from griffe import Extension, Object

# [`~lmrl.core.k1`]: the API pages have no page for names of other libraries, so a reference becomes code.
REFERENCE = re.compile(r"\[`~?(?:[\w.]+\.)?(\w+)`\](?![\[(])")
# name (`str`, *optional*, defaults to `"text"`), other (`int`):
PARAMETERS = re.compile(r"^(\s+)(\*{0,2}\w+ \(.*\)):$", flags=re.MULTILINE)
PARAMETER = re.compile(r"(\*{0,2}\w+) \((.*?)\)(?=, \*{0,2}\w+ \(|$)")


def _plain(match: re.Match[str]) -> str:
    """Returns the names and the type of the first: mkdocstrings takes defaults from the signature."""
    found = PARAMETER.findall(match[2])
    kind = found[0][1].split(", *optional*")[0].replace("`", "")
    return f"{match[1]}{', '.join(name for name, _ in found)} ({kind}):"


class PlainDocstrings(Extension):
    """Rewrites the docstring of every object that Griffe loads."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Rewrites the docstring of one object."""
        if obj.docstring is not None:
            text = PARAMETERS.sub(_plain, obj.docstring.value)
            obj.docstring.value = REFERENCE.sub(r"`\1`", text)
