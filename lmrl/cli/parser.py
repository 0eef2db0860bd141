"""The parser of the recipes: turns YAML and flags into dataclasses."""

import json
import math
import os
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, NoReturn, get_origin, get_type_hints

import yaml
from trl import TrlParser

from lmrl.deprecation import warn_deprecated
from lmrl.settings import COMMAND_LINE, FILE, giving
from lmrl.utils import check_at_least, members_of, parse_json, shorten

from .blocks import entries_of_recipe
from .catalog import DESCRIBE_ARGUMENTS, catalog_entry
from .flags import as_rule
from .help import describe, wants_help, write_help
from .hints import remedy_for, yaml_problem
from .interruption import PARSED
from .process import PRINT_ARGUMENTS
from .unread import check_places

_REMOVAL_OF_OLD_NAMES = "0.3.0"

# Settings that Trainer divides by, but does not check.
_DIVISORS = (
    *("gradient_accumulation_steps", "eval_accumulation_steps"),
    *("per_device_train_batch_size", "per_device_eval_batch_size"),
)

# Arguments that are mappings, or the path of a file with one.
_FROM_FILES = ("accelerator_config", "deepspeed", "fsdp_config", "space")


class _Parser(TrlParser):
    """TRL's parser, which raises errors instead of printing them below a page of usage."""

    def error(self, message: str) -> NoReturn:
        """Raises a `ValueError` with the message that argparse would print before it exits."""
        raise ValueError(as_rule(message))


def parse(
    *dataclass_types: type,
    argv: Sequence[str] | None = None,
    demo: str | Path | None = None,
    defaults: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
) -> tuple[Any, ...]:
    """
    Returns one object of each dataclass, from `--config file.yaml` and the command line, which overrides the file.

    `--help` prints the arguments that matter and exits, `--help all` prints all of them, and `--print_arguments`
    prints the checked arguments with their types as JSON. The former names in a class's `_old_names` are accepted too,
    with a deprecation warning.

    Args:
        dataclass_types (`type`):
            Dataclasses without a field in common: those of [`lmrl.arguments`], a trainer's configuration.
        argv (`list[str]`, *optional*):
            Defaults to the command line.
        demo (`str` or `Path`, *optional*):
            The YAML file to read if neither `--config` nor a model nor a dataset is given.
        defaults (`Callable`, *optional*):
            Takes the values that the command line or the file gives, by name, and returns other defaults for arguments
            that are not given, such as those of an earlier run.

    Returns:
        `tuple`, in the order of `dataclass_types`.

    Raises:
        ValueError: For an unknown name, a value of the wrong kind, or a file that cannot be read.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv == [DESCRIBE_ARGUMENTS] or wants_help(argv) is not None:
        _print_arguments(dataclass_types, argv, None if demo is None else Path(demo))
    prints_arguments = PRINT_ARGUMENTS in argv
    argv = [text for text in argv if text != PRINT_ARGUMENTS]
    parser = _Parser(dataclass_types, allow_abbrev=False, add_help=False)
    parser.add_argument("--config", metavar="FILE")
    types = {name: hint for kind in dataclass_types for name, hint in get_type_hints(kind).items()}
    hints = {field.name: types[field.name] for kind in dataclass_types for field in fields(kind) if field.init}
    renamed = _old_names(dataclass_types)
    argv = _rename_flags(argv, renamed)
    given, unknown = parser.parse_known_args(argv)
    _refuse_unknown(unknown, hints, dataclass_types)
    # 1. A file gives the values that the command line leaves out.
    on_line = _names_in(argv, parser)
    file = given.config if given.config is not None or on_line & {"model_name_or_path", "dataset_name"} else demo
    in_file = {} if file is None else _read_config(str(file), parser, hints, renamed)
    if given.config is None and "rewards" in on_line:  # the demo's weights are for its own rewards
        in_file.pop("reward_weights", None)
    parser.set_defaults_with_config(**in_file)
    places = dict.fromkeys(in_file, FILE) | dict.fromkeys(on_line, COMMAND_LINE)
    values = vars(parser.parse_known_args(argv)[0])
    if defaults is not None:
        other = defaults({name: values[name] for name in places})
        known = {name: value for name, value in other.items() if name in hints and name not in places}
        parser.set_defaults_with_config(**known)
        values = vars(parser.parse_known_args(argv)[0])
    # 2. Values that a library would accept, but fail on later, are refused here.
    for name, value in values.items():
        if name in hints:
            _check_value(name, value, hints[name])
    check_at_least(1, **{name: values[name] for name in _DIVISORS if name in hints})
    check_places(places, values, {field.name: field.default for kind in dataclass_types for field in fields(kind)})
    # 3. The dataclasses check the rest themselves.
    try:
        with giving(places):
            parsed = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)[: len(dataclass_types)]
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:  # from a library that checks less
        raise ValueError(f"These arguments cannot be used together ({type(error).__name__}: {error}).") from error
    if prints_arguments:
        print(arguments_as_json(parsed))
        sys.exit(0)
    PARSED.clear()
    PARSED.update(item for group in parsed for item in vars(group).items())
    return parsed


def _print_arguments(dataclass_types: Sequence[type], argv: Sequence[str], demo: Path | None) -> NoReturn:
    """Prints the help, or the recipe's entry for the catalog of saved help, and exits."""
    arguments = describe(dataclass_types)
    example = None if demo is None else (demo, read_yaml(demo.read_text("utf-8"), str(demo)))
    if DESCRIBE_ARGUMENTS in argv:
        print(catalog_entry(arguments, dataclass_types, example))
    else:
        sys.stdout.write(write_help(arguments, Path(sys.argv[0]).name, wants_help(argv) == "all", example))
    sys.exit(0)


def arguments_as_json(parsed: Iterable[Any]) -> str:
    """Returns a line of JSON with the type and value of each field of parsed dataclasses, except for tokens."""
    arguments = {}
    for group in parsed:
        hints = get_type_hints(type(group))
        for field in fields(group):
            if field.init and not field.name.endswith("_token"):
                hint = hints[field.name]
                type_name = hint.__name__ if isinstance(hint, type) else str(hint)
                arguments[field.name] = {"type": type_name, "value": getattr(group, field.name)}
    return json.dumps(arguments, default=str)


def _old_names(dataclass_types: Iterable[type]) -> dict[str, str]:
    """Returns the present names of renamed arguments, by old name."""
    present = {field.name for kind in dataclass_types for field in fields(kind)}
    renamed = [pair for kind in dataclass_types for pair in getattr(kind, "_old_names", {}).items()]
    return {old: new for old, new in renamed if old not in present}


def _rename_flags(argv: list[str], renamed: dict[str, str]) -> list[str]:
    """Returns a command line with old names of arguments replaced by the present ones, and warns of each."""
    words = []
    for word in argv:
        flag, equals, value = word.partition("=")
        old = flag.removeprefix("--").replace("-", "_")
        if flag.startswith("--") and old in renamed:
            warn_deprecated(flag, f"--{renamed[old]}", removed_in=_REMOVAL_OF_OLD_NAMES)
            word = f"--{renamed[old]}{equals}{value}"
        words.append(word)
    return words


def _names_in(argv: Sequence[str], parser: _Parser) -> set[str]:
    """Returns the names of the arguments that a command line gives, even if with their default values."""
    nothing = object()
    names = [action.dest for action in parser._actions]
    given, _ = parser.parse_known_args(argv, Namespace(**dict.fromkeys(names, nothing)))
    return {name for name in names if getattr(given, name) is not nothing}


def _refuse_unknown(unknown: Sequence[str], known: Iterable[str], dataclass_types: Iterable[type]) -> None:
    """Raises an error for the first word of a command line that no argument takes: flags first, then values."""
    for text in sorted(unknown, key=lambda text: not text.startswith("-"))[:1]:
        of_others = "".join(getattr(kind, "_remedy_for_others", "") for kind in dataclass_types)
        raise ValueError(f"Unknown argument `{text}`.{remedy_for(text, known, of_others)}")


def _check_value(name: str, value: Any, hint: Any) -> None:
    """Raises an error for a value that has the right form, but that no library can use."""
    kinds = _kinds(hint)
    if isinstance(value, list) and {list, Any}.isdisjoint(kinds):
        raise ValueError(f"`{name}` must have a value, got `--`.")
    if isinstance(value, tuple) and any(isinstance(part, str) for part in value):
        raise ValueError(f"`{name}` must be a list of numbers, got {''.join(value)!r}. Put it into a YAML file.")
    for number in value if isinstance(value, list | tuple) else [value]:
        if isinstance(number, float) and not math.isfinite(number):
            raise ValueError(f"`{name}` must be a finite number, got {number}.")
        if isinstance(number, int) and abs(number) >= 2**63:
            raise ValueError(f"`{name}` must be a number of at most 64 bits, got {number}.")
    if dict in kinds and isinstance(value, str) and not os.path.isfile(value):  # Path.is_file raises for long texts
        try:
            parse_json(value).keys()
        except (ValueError, AttributeError) as error:
            reason = f" ({error})" if type(error) is ValueError else ""  # a key that occurs twice
            file = " or an existing file" if name in _FROM_FILES else ""
            rule = f'`{name}` must be a JSON object such as {{"name": 1}}{file}, got {value!r}'
            raise ValueError(f"{rule}{reason}.") from error


def _read_config(path: str, parser: _Parser, hints: dict[str, Any], renamed: dict[str, str]) -> dict[str, Any]:
    """Returns the values of a YAML file, each checked and converted as on the command line."""
    config, as_written = _load_config(path)
    values = {}
    try:
        for name, (value, written) in entries_of_recipe(config, as_written, {*hints, *renamed}).items():
            if name in renamed:
                warn_deprecated(f"{name}:", f"{renamed[name]}:", removed_in=_REMOVAL_OF_OLD_NAMES)
                name = renamed[name]
            if name in values:
                raise ValueError(f"`{name}` must be given once, got it under its former name too. Leave out either.")
            values[name] = _read_value(name, value, written, parser, hints[name])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return values


def _load_config(path: str) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Returns the content of a YAML file, and the same with every number, switch and date as text."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        config = read_yaml(text, path)
        as_written = yaml.load(text, _TextLoader)
    except OSError as error:
        raise ValueError(f"`--config` must be a file that can be read, got {path!r}: {error.strerror}.") from error
    except UnicodeError as error:
        raise ValueError(f"{path} must be UTF-8 text, got {error}. Save it again as UTF-8.") from error
    except RecursionError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    except yaml.YAMLError as error:  # from the second pass: an alias inside its own anchor
        raise ValueError(f"{path} {yaml_problem(error, text)}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} must have lines `name: value`, got {shorten(config)}.")
    return config, as_written


def _read_value(name: str, value: Any, written: Any, parser: _Parser, hint: Any) -> Any:
    """Returns a value of a YAML file, read as on the command line, where `no` and `1.10` can be texts."""
    kinds = _kinds(hint)
    if tuple in kinds and isinstance(value, list):  # a tuple has no form on a command line
        return tuple(value)
    if (value is None or isinstance(value, dict | list)) and type(value) not in kinds:
        raise ValueError(f"`{name}` must be of type {' or '.join(map(_name, kinds))}, got {shorten(value)}.")
    if value is None or isinstance(value, dict):
        return value
    if isinstance(value, list):
        both = zip(value, written, strict=True)
        items = [json.dumps(item) if isinstance(item, dict | list) else str(text) for item, text in both]
        # An empty list and `str | list[str]` have no form on a command line.
        return items if not items or str in kinds else getattr(parser.parse_known_args([f"--{name}", *items])[0], name)
    return getattr(parser.parse_known_args([f"--{name}={written}"])[0], name)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader that also reads 1e-6 as a number, and refuses a name that is given twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Returns a mapping whose names all differ."""
        lines: dict[str, int] = {}
        for key, _ in node.value:
            name = str(key.value)
            line = key.start_mark.line + 1
            if name in lines:
                raise ValueError(f"`{name}` must be given once, got it in lines {lines[name]} and {line}.")
            lines[name] = line
            if not key.tag.endswith(":merge"):  # a name is a text, such as `no` and 1.10 as the values of a slot
                key.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)


class _TextLoader(yaml.SafeLoader):
    """A loader that reads every value as text, with what `<<` merges, which PyYAML's `BaseLoader` leaves out."""

    yaml_constructors: ClassVar[dict[str, Any]] = {}
    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {"<": yaml.SafeLoader.yaml_implicit_resolvers["<"]}


# YAML 1.1 requires a decimal point and a sign of the exponent; YAML 1.2 and Python do not.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


def read_yaml(text: str, path: str) -> Any:
    """
    Returns the content of a YAML text; `path` is for messages.

    Raises:
        ValueError: If it is malformed, or a name is given twice in one mapping; the message has the lines.
    """
    try:
        return yaml.load(text, _Loader)
    except UnicodeError:
        raise
    except yaml.YAMLError as error:
        raise ValueError(f"{path} {yaml_problem(error, text)}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _kinds(hint: Any) -> list[Any]:
    """Returns the types that a value may have, without the types of its items: `list` for `list[str]`."""
    return [get_origin(member) or member for member in members_of(hint)]


def _name(kind: Any) -> str:
    """Returns a type's name."""
    return "null" if kind is NoneType else getattr(kind, "__name__", str(kind))
