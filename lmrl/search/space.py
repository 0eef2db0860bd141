"""The search space: arguments by name, each with choices or a range."""

import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lmrl.cli import read_yaml
from lmrl.libraries import optuna
from lmrl.utils import did_you_mean, parse_json, shorten

_RANGE_KEYS = ("low", "high", "log", "step")
_SAME_IN_ALL_TRIALS = ("config", "resume_from_checkpoint", "output_dir", "eval_output_dir")


def read_space(space: Mapping[str, Any] | str, types: Mapping[str, str] | None = None) -> dict[str, Any]:
    """
    Returns Optuna's distribution for each argument of a search space; raises a `ValueError` for a wrong one.

    Args:
        space (`dict` or `str`):
            For each name a list of choices, or a range with `low`, `high` and optionally `log` or `step`; or the same
            as JSON, or the path of a YAML file. Choices that are lists or mappings are kept as JSON.
        types (`dict` of `str`, *optional*):
            Type of each argument, such as `float | None`. Without `types` every name is accepted, and a range written
            with integers has integers.
    """
    if isinstance(space, str):
        space = _read(space)
    if not isinstance(space, Mapping) or not space:
        raise ValueError(f'`space` must have names of arguments, got {space!r}. Example: {{"beta": [0.01, 0.1]}}.')
    distributions = {}
    for name, values in space.items():
        if name in _SAME_IN_ALL_TRIALS:
            raise ValueError(f"`space` must not have `{name}`, got {values!r}. The sweep or `--` sets it.")
        if types is not None and name not in types:
            raise ValueError(
                f"`space` must name arguments of the recipe, got {name!r}.{did_you_mean(str(name), types)}"
            )
        try:
            if isinstance(values, Mapping):
                distributions[name] = _range(values, None if types is None else types[name])
            else:
                distributions[name] = _choices(values)
        except (TypeError, ValueError) as error:
            rule = f"`space.{name}` must be a list of choices or a range with low and high, got {values!r}."
            raise ValueError(f"{rule} Reason: {error}") from error
    return distributions


def as_argv(name: str, value: Any) -> list[str]:
    """Returns the words of a command line that set an argument to a value."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        with suppress(ValueError):  # it is a text, such as a prompt template
            value = json.loads(value)
    items = value if isinstance(value, list) else [value]
    return [f"--{name}", *(item if isinstance(item, str) else json.dumps(item) for item in items)]


def _read(text: str) -> Any:
    try:
        return parse_json(text) if text.lstrip().startswith("{") else read_yaml(Path(text).read_text("utf-8"), text)
    except (OSError, ValueError) as error:
        raise ValueError(f"`space` must be JSON or a YAML file, got {shorten(text)}. Reason: {error}") from error


def _choices(values: Any) -> Any:
    if not isinstance(values, list) or None in values or [] in values:
        raise ValueError("A command line cannot express such choices.")
    choices = [json.dumps(value) if isinstance(value, list | dict) else value for value in values]
    if len(set(choices)) < len(choices):
        raise ValueError("The choices are not distinct.")
    return optuna.distributions.CategoricalDistribution(choices)


def _range(values: Mapping[str, Any], type_name: str | None) -> Any:
    for key in values.keys() - _RANGE_KEYS:
        raise ValueError(f"A range has no {key!r}.{did_you_mean(str(key), _RANGE_KEYS)}")
    log = values.get("log", False)
    if not isinstance(log, bool):
        raise ValueError("log is true or false.")
    numbers = {key: float(value) for key, value in values.items() if key != "log"}
    types = {type(values[key]).__name__ for key in numbers}
    if type_name is not None:
        types = set(re.findall(r"\b(?:int|float)\b", type_name))
    kind = optuna.distributions.FloatDistribution
    if types == {"int"}:
        if not all(number.is_integer() for number in numbers.values()):
            raise ValueError("The argument is an integer.")
        kind = optuna.distributions.IntDistribution
        numbers = {key: int(number) for key, number in numbers.items()}
    distribution = kind(**numbers, log=log)
    if not types or distribution.single() or not math.isfinite(distribution.high - distribution.low):
        raise ValueError("The argument is not a number, or low is not below high by a step.")
    return distribution
