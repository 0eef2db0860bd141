"""Rewards from their names in a configuration file or on the command line, and from the user's modules."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from lmrl.utils import did_you_mean, line_of, parse_json

REWARDS: dict[str, Callable[..., Any]] = {}
"""The reward classes by name: filled in `lmrl/rewards/__init__.py`, a row for each."""

_WITHOUT_KEY = ("weighted", "product", "minimum")  # may be given the value of `rewards` alone, without the key
_TERM = {"reward", "weight"}
_PLAIN: dict[Any, Any] = {bool: {bool}, int: {int}, float: {int, float}, str: {str}}  # types by annotation


def make_reward(spec: str | Mapping[str, Any]) -> Callable[..., Any]:
    """
    Returns the reward that a configuration names.

    Args:
        spec (`str` or `Mapping`):
            - a name in [`REWARDS`]: `"bleu"`;
            - a mapping of one name to its arguments, `{"rougeL": {"use_stemmer": True}}`, or the JSON text of one;
            - a reward made of others, whose arguments `reward`, `rewards` and `when` take these same forms:
              `{"clipped": {"reward": "bleu", "high": 0.5}}`, `{"product": ["bleu", {"length": {"target": 20}}]}`,
              `{"weighted": {"bleu": 0.7, "rougeL": 0.3}}`. A weighted component with arguments is an item of a list,
              `{"weighted": [{"reward": {"length": {"target": 20}}, "weight": 0.3}]}`;
            - the user's own, as `"path/to/file.py:name"` or `"package.module:name"`: any callable that TRL takes as a
              reward function. A class is constructed, with the arguments given. The file is run.

    Returns:
        `Callable`: a reward to be put into `reward_funcs`.

    Raises:
        ValueError: For an unknown name or argument, a missing argument, or a file, module or attribute not found.

    Example:

    ```python
    >>> make_reward({"bleu": {"lowercase": True}}).signature.rpartition("|")[0]
    'bleu|nrefs:var|case:lc|eff:yes|tok:13a|smooth:exp'
    ```
    """
    name, arguments = _name_and_arguments(spec)
    if name in REWARDS:
        made: dict[str, Any] = {key: make_reward(arguments[key]) for key in ("reward", "when") if key in arguments}
        if "rewards" in arguments:
            made["rewards"] = (_weighted if name == "weighted" else make_rewards)(arguments["rewards"])
        return _constructed(name, REWARDS[name], arguments | made)
    if ":" in name:
        return _own_reward(name, arguments)
    if name.endswith(".py"):
        raise ValueError(f"A reward of a file must name its function or class, got {name!r}. Write {name}:function.")
    hint = did_you_mean(name, REWARDS, cutoff=0.5)
    raise ValueError(
        f"A reward must have a known name, got {name!r}.{hint} Name your own as path/to/file.py:function or "
        f"package.module:attribute. Known are {', '.join(REWARDS)}."
    )


def make_rewards(specs: Iterable[str | Mapping[str, Any]]) -> list[Callable[..., Any]]:
    """Returns the reward of each specification, made by [`make_reward`]."""
    if isinstance(specs, (str, Mapping)) or not isinstance(specs, Iterable):
        raise ValueError(f"The rewards must be a list, got {specs!r}. Put it into a list, or use `make_reward`.")
    return [make_reward(spec) for spec in specs]


def _weighted(terms: Any) -> list[tuple[Callable[..., Any], float]]:
    """Returns the rewards and weights of a sum, written as `{name: weight}` or `[{reward: ..., weight: ...}]`."""
    pairs = list(terms.items()) if isinstance(terms, Mapping) else []
    if isinstance(terms, list) and all(isinstance(term, Mapping) and term.keys() == _TERM for term in terms):
        pairs = [(term["reward"], term["weight"]) for term in terms]
    if not pairs or any(isinstance(weight, bool) or not isinstance(weight, (int, float)) for _, weight in pairs):
        raise ValueError(
            "`weighted` must be a mapping of names to weights, {bleu: 0.7, rougeL: 0.3}, or, for rewards with "
            f"arguments, a list of {{reward: ..., weight: ...}}, got {terms!r}."
        )
    return [(make_reward(spec), weight) for spec, weight in pairs]


def _name_and_arguments(spec: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    given = spec
    if isinstance(spec, str) and spec.lstrip().startswith("{"):
        try:
            spec = parse_json(spec)
        except ValueError as error:
            rule = 'A reward in braces must be JSON such as {"length": {"target": 20}}'
            raise ValueError(f"{rule}, got {given!r} ({error}).") from error
    if isinstance(spec, str):
        return spec.strip(), {}
    if not isinstance(spec, Mapping) or len(spec) != 1:
        raise ValueError(f"A reward must be a name or a mapping of one name to its arguments, got {given!r}.")
    ((name, arguments),) = spec.items()
    if name in _WITHOUT_KEY and not (isinstance(arguments, Mapping) and "rewards" in arguments):
        arguments = {"rewards": arguments}
    if not isinstance(name, str) or not isinstance(arguments, Mapping | None):
        raise ValueError(f"The arguments of a reward must be a mapping of names to values, got {given!r}.")
    return name, dict(arguments or {})


def _constructed(name: str, constructor: Callable[..., Any], arguments: dict[str, Any]) -> Callable[..., Any]:
    parameters = inspect.signature(constructor).parameters.values()
    accepted = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    unknown = arguments.keys() - accepted.keys()
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters):
        raise ValueError(f"The arguments of {name!r} must be among {list(accepted)}, got {sorted(unknown)}.")
    missing = [key for key, p in accepted.items() if p.default is p.empty and key not in arguments]
    if missing:
        raise ValueError(f"The reward {name!r} needs {missing}. Write {{{name!r}: {{{missing[0]!r}: ...}}}}.")
    for key, parameter in accepted.items():
        kind, value = parameter.annotation, arguments.get(key, parameter.default)
        if kind in _PLAIN and value is not parameter.default and type(value) not in _PLAIN[kind]:
            raise ValueError(f"`{key}` of {name!r} must be of type {kind.__name__}, got {value!r}. Write it as such.")
    try:
        reward: Callable[..., Any] = constructor(**arguments)
    except (ValueError, OSError, ImportError):  # messages for users
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        line = line_of(error)
        raise ValueError(f"The arguments of {name!r} must be valid, got {arguments} ({reason}).{line}") from error
    return reward


FILE_PREFIX = "rewards_of_"  # of the names in `sys.modules` of modules that are loaded from a file


def _own_reward(name: str, arguments: dict[str, Any]) -> Callable[..., Any]:
    """Returns the user's `"path/to/file.py:attribute"` or `"package.module:attribute"`; a class is constructed."""
    where, _, attribute = name.rpartition(":")
    is_file = where.endswith(".py")
    if not is_file and where[:1] in ("", "."):
        raise ValueError(f"A reward must be of a file ending in .py or of a module such as a.b, got {where!r}.")
    try:
        module = module_of_file(Path(where)) if is_file else importlib.import_module(where)
    except ModuleNotFoundError as error:
        raise ValueError(f"The module of a reward must be importable, got {where!r} ({error}). Install it.") from error
    if not hasattr(module, attribute):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ValueError(f"`{name}` must name an attribute of {where}, got {attribute!r}. Callables there: {public}.")
    own = getattr(module, attribute)
    if inspect.isclass(own):
        own = _constructed(name, own, arguments)
    elif arguments:
        raise ValueError(f"`{name}` must be a class to have arguments, got {arguments}. Bind them in its module.")
    if not callable(own):
        raise ValueError(f"`{name}` must be callable, got a {type(own).__name__}. Name a function or a class.")
    return cast(Callable[..., Any], own)


def module_of_file(path: Path) -> ModuleType:
    """
    Returns the module of a Python file. The file is run once: two rewards of one file share its module.

    Raises:
        ValueError: If there is no such file, or if it fails.
    """
    path = path.expanduser().resolve()
    name = f"{FILE_PREFIX}{path}".replace(".", "//")  # a dot would make it a part of a package; no path has `//`
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise ValueError(f"The file of a reward must exist, got {path}. Correct its path, or start where it is.")
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
            raised = f"{type(error).__name__}: {str(error).rstrip('.')}"
            raise ValueError(f"{path} must run, got {raised}. Correct the file.{line_of(error)}") from error
        raise
    return module
