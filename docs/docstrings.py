"""Griffe extension that turns docstrings of the form that TRL uses into the form that mkdocstrings reads."""

import ast
import re
from typing import Any

from griffe import Attribute, Docstring, Extension, Object

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


def _field(value: Any) -> tuple[str, str] | None:
    """Returns the default and the help of a dataclass field, or `None` for a value that is not a field with a help."""
    call = ast.parse(str(value), mode="eval").body
    if not isinstance(call, ast.Call) or ast.unparse(call.func) not in ("field", "_option"):
        return None
    named = {word.arg: word.value for word in call.keywords}
    if ast.unparse(call.func) == "_option":
        default, text = (ast.unparse(node) for node in call.args)
        return default, str(ast.literal_eval(text))
    if "metadata" not in named:
        return None
    default = ast.unparse(named["default"]) if "default" in named else ast.unparse(named["default_factory"])
    return default, str(ast.literal_eval(named["metadata"])["help"])


class PlainDocstrings(Extension):
    """Rewrites the docstring of every object that Griffe loads, and documents dataclass fields by their help."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Rewrites the docstring of one object."""
        if obj.docstring is not None:
            text = PARAMETERS.sub(_plain, obj.docstring.value)
            obj.docstring.value = REFERENCE.sub(r"`\1`", text)

    def on_attribute_instance(self, *, attr: Attribute, **kwargs: Any) -> None:
        """Gives a dataclass field its help as its docstring and its default as its value."""
        found = None if attr.value is None or attr.docstring is not None else _field(attr.value)
        if found is not None:
            attr.value = found[0]
            attr.docstring = Docstring(found[1], parent=attr)
