"""
The arguments of the recipes of lmrl, saved in `catalog.json`, so that they are known without importing TRL and torch.

    python -m lmrl.cli.catalog        rewrites the file, after a change of arguments

The saved arguments of a recipe are used only if the recipe, the classes of its arguments and the libraries have not
changed since: a changed recipe shows its own arguments.
"""

import contextlib
import hashlib
import io
import json
import runpy
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .help import Argument, wants_help, write_help

DESCRIBE_ARGUMENTS = "--describe_arguments"
FILE = Path(__file__).with_name("catalog.json")

_LMRL = Path(__file__).parents[1]
_LIBRARIES = ("transformers", "trl")


def saved_help(recipe: Path, argv: Sequence[str]) -> str | None:
    """
    Returns the help of a recipe (a file) if its arguments `argv` request help and its saved arguments still apply,
    else `None`.
    """
    own = list(argv[: argv.index("--")] if "--" in argv else argv)  # those after it are another recipe's
    scope = wants_help(own)
    if scope is None:
        return None
    saved = _read()
    current = _digest(recipe)
    entry = next((entry for entry in saved["recipes"].values() if entry["recipe"] == current), None)
    if entry is None or saved["libraries"] != _versions():
        return None
    sources = {_LMRL / path: digest for path, digest in entry["sources"].items()}
    demo = None
    if entry["demo"] is not None:
        demo = (recipe.resolve().parent / entry["demo"][0], entry["demo"][1])
        sources[demo[0]] = entry["demo_digest"]
    if any(_digest(path) != digest for path, digest in sources.items()):
        return None
    arguments = [Argument(*saved["arguments"][number]) for number in entry["arguments"]]
    return write_help(arguments, recipe.name, scope == "all", demo)


def recipe_names() -> dict[str, dict[str, str]]:
    """Returns the saved group of each argument, as `[recipe][argument]`."""
    saved = _read()
    rows = saved["arguments"]
    return {
        recipe: {rows[number][1]: rows[number][0] for number in entry["arguments"]}
        for recipe, entry in saved["recipes"].items()
    }


def catalog_entry(
    arguments: Iterable[Argument], dataclass_types: Iterable[type], demo: tuple[Path, Mapping[str, Any]] | None
) -> str:
    """
    Returns the entry of a recipe in the catalog, as JSON: its arguments, the files of the classes that declare them,
    and the YAML file of its demo with its content.
    """
    modules = {base.__module__ for kind in dataclass_types for base in kind.__mro__}
    files = [Path(str(sys.modules[name].__file__)) for name in modules if name.split(".")[0] == "lmrl"]
    sources = sorted(path.relative_to(_LMRL).as_posix() for path in [*files, Path(__file__).with_name("help.py")])
    entry = {
        "sources": {path: _digest(_LMRL / path) for path in sources},
        "demo": None if demo is None else (f"configs/{demo[0].name}", demo[1]),
        "demo_digest": None if demo is None else _digest(demo[0]),
        "arguments": [astuple(argument) for argument in arguments],
    }
    return json.dumps(entry)


def build(recipes: Iterable[Path]) -> str:
    """Returns the text of the catalog; each recipe (a file) is run until it has parsed its arguments."""
    rows: dict[tuple[str, ...], int] = {}
    entries = {}
    for recipe in sorted(recipes):
        entry = _described(recipe)
        numbers = [rows.setdefault(tuple(row), len(rows)) for row in entry.pop("arguments")]
        entries[recipe.stem] = {"recipe": _digest(recipe), **entry, "arguments": numbers}
    # A line for each argument, so that a changed argument is one line in a diff.
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    places = ",\n".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items())
    libraries = json.dumps(_versions())
    return f'{{"libraries": {libraries},\n"recipes": {{\n{places}\n}},\n"arguments": [\n{lines}\n]}}\n'


def _described(recipe: Path) -> dict[str, Any]:
    """Returns the entry of a recipe, which the recipe itself prints."""
    printed = io.StringIO()
    argv = sys.argv
    sys.argv = [str(recipe), DESCRIBE_ARGUMENTS]
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            runpy.run_path(str(recipe), run_name="__main__")
    finally:
        sys.argv = argv
    return dict(json.loads(printed.getvalue().splitlines()[-1]))


@cache
def _read() -> dict[str, Any]:
    return dict(json.loads(FILE.read_text(encoding="utf-8")))


def _versions() -> dict[str, str]:
    return {name: version(name) for name in _LIBRARIES}


def _digest(path: Path) -> str | None:
    """Returns a hash of a text file, independent of its line endings; `None` if there is no such file."""
    if not path.is_file():
        return None
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()[:16]


if __name__ == "__main__":
    FILE.write_text(build((_LMRL.parent / "recipes").glob("*.py")), encoding="utf-8")
