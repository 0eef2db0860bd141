"""Loading of rewards from a file or a module of the user's."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

FILE_PREFIX = "rewards_of_"
"""First letters of the names in `sys.modules` of modules that are loaded from a file."""


def load_attribute(name: str) -> Any:
    """
    Returns an attribute of a module.

    Args:
        name (`str`):
            `"path/to/file.py:attribute"` or `"package.module:attribute"`. The file is run.

    Raises:
        ValueError: If there is no such file, module or attribute, or if the file fails.
    """
    where, _, attribute = name.rpartition(":")
    module = module_of_file(Path(where)) if where.endswith(".py") else _module_of_name(where)
    if not hasattr(module, attribute):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ValueError(f"`{name}` must name an attribute of {where}, got {attribute!r}. Callables there: {public}.")
    return getattr(module, attribute)


def _module_of_name(where: str) -> ModuleType:
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        raise ValueError(f"The module of a reward must be importable, got {where!r} ({error}). Install it.") from error


def module_of_file(path: Path) -> ModuleType:
    """
    Returns the module of a file, which is run once: two rewards of one file share its module.

    Args:
        path (`Path`):
            A Python file.

    Raises:
        ValueError: If there is no such file, or if it fails.
    """
    path = path.expanduser().resolve()
    name = f"{FILE_PREFIX}{path}".replace(".", "_")  # a dot would make it a part of a package
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise ValueError(f"The file of a reward must exist, got {path}.")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"The file of a reward must be Python, got {path}.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses and pickle look a class up by its module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, Exception):
            raise ValueError(f"{path} must run, got {type(error).__name__}: {error}. Correct the file.") from error
        raise
    return module
