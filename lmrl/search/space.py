"""What is searched: arguments by name, each with a range or with choices."""

import difflib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml

from .library import optuna

_OURS = {
    "output_dir": "each trial has a folder of its own",
    "eval_output_dir": "a trial's scores lie in its own folder",
}
_OURS |= dict.fromkeys(("config", "resume_from_checkpoint"), "it is the same in all trials, behind `--`")
_KEYS = ("low", "high", "log", "step")


@dataclass(frozen=True)
class Dimension:
    """
    One argument that is searched.

    Args:
        name (`str`):
            Name of the argument.
        choices (`tuple`, *optional*, defaults to `()`):
            Its values, where they are listed; a list or a mapping as JSON.
        low (`float`, *optional*, defaults to `0.0`):
            Least value of a range.
        high (`float`, *optional*, defaults to `0.0`):
            Largest value of a range, included.
        step (`float`, *optional*):
            Distance of the values of a range.
        log (`bool`, *optional*, defaults to `False`):
            Whether the range is searched by its logarithm.
        whole (`bool`, *optional*, defaults to `False`):
            Whether only integers are values.
    """

    name: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    whole: bool = False

    def distribution(self) -> Any:
        """Returns it in Optuna's terms."""
        kinds = optuna().distributions
        if self.choices:
            return kinds.CategoricalDistribution(self.choices)
        if self.whole:
            return kinds.IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return kinds.FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def argv(self, value: Any) -> list[str]:
        """Returns a value as the recipe's command line has it."""
        if isinstance(value, str) and value[:1] in ("[", "{") and value in self.choices:
            value = json.loads(value)
        items = value if isinstance(value, list) else [value]
        return [f"--{self.name}", *map(_text, items)]


def read_space(space: Mapping[str, Any] | str, hints: Mapping[str, Any]) -> dict[str, Dimension]:
    """
    Returns what is searched, by the name of the argument.

    Args:
        space (`dict` or `str`):
            A list of choices, or a range with `low`, `high` and perhaps `log` or `step`, by name; or that as JSON; or
            the name of a YAML file with it.
        hints (`dict`):
            The type of each argument of the recipe.

    Raises:
        ValueError: If there is no such argument, or a range or a choice that none can be.
    """
    if isinstance(space, str):
        space = _read(space)
    if not isinstance(space, Mapping) or not space:
        raise ValueError(f"space is {space!r}, but must name arguments: {{'beta': [0.01, 0.1]}}")
    found = {}
    for name, given in space.items():
        if name in _OURS:
            raise ValueError(f"space has {name!r}, which cannot be searched: {_OURS[name]}")
        if name not in hints:
            raise ValueError(f"space has {name!r}, which is no argument of the recipe{closest(str(name), hints)}")
        found[name] = _range(name, given, hints[name]) if isinstance(given, Mapping) else _choices(name, given)
    return found


def closest(name: str, known: Iterable[str]) -> str:
    """Returns the end of a sentence about an unknown name."""
    close = difflib.get_close_matches(name.replace("-", "_"), known, n=1)
    return f": did you mean {close[0]}?" if close else ""


def _read(text: str) -> Any:
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"space is no valid JSON ({error}): quote it in '...'") from error
    try:
        return yaml.safe_load(Path(text).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"the file of --space, {text!r}, cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{text} is not valid YAML: {error}") from error


def _choices(name: str, given: Any) -> Dimension:
    if not isinstance(given, list) or not given:
        raise ValueError(f"space has {name}: {given!r}, but must have a list of choices, or a range with low and high")
    for value in given:
        if value is None or value == []:
            raise ValueError(f"space has {name} with the choice {value!r}, which no command line can say")
    choices = tuple(json.dumps(value) if isinstance(value, list | dict) else value for value in given)
    if len(set(choices)) < len(choices):
        raise ValueError(f"space has {name}: {given!r}, but choices must differ")
    return Dimension(name, choices)


def _range(name: str, given: Mapping[str, Any], hint: Any) -> Dimension:
    for key in given:
        if key not in _KEYS:
            raise ValueError(f"space has {name} with {key!r}, but a range has {', '.join(_KEYS)}{closest(key, _KEYS)}")
    kinds = set(get_args(hint)) | {hint}
    if not kinds & {int, float}:
        raise ValueError(f"space has a range for {name}, which is no number: list its choices")
    low, high = (_number(name, key, given.get(key)) for key in ("low", "high"))
    step = None if given.get("step") is None else _number(name, "step", given["step"])
    dimension = Dimension(name, (), low, high, step, given.get("log", False), float not in kinds)
    _check_range(dimension)
    return dimension


def _check_range(of: Dimension) -> None:
    ends = f"space has {of.name} from {of.low:g} to {of.high:g}"
    if not isinstance(of.log, bool):
        raise ValueError(f"space has {of.name} with log {of.log!r}, but must be true or false")
    if not of.low < of.high:
        raise ValueError(f"{ends}, but low must be below high")
    if of.log and (of.step is not None or of.low <= 0):
        raise ValueError(f"{ends} with log, which needs low above 0 and no step")
    if of.step is not None and not 0 < of.step <= of.high - of.low:
        raise ValueError(f"{ends} with step {of.step:g}, which must be above 0 and at most high - low")
    if of.whole and any(value != int(value) for value in (of.low, of.high, of.step or 1)):
        raise ValueError(f"{ends}, but it takes integers: low, high and step must be some")


def _number(name: str, key: str, value: Any) -> float:
    """Returns a number, also where YAML takes 1e-5 for text."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"space has {name} with {key} {value!r}, but must be a number")
    return number


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
