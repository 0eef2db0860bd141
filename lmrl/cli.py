"""The command line of the recipes: YAML and flags into dataclasses, and errors as sentences."""

import difflib
import json
import math
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

import yaml
from trl import TrlParser


class _Parser(TrlParser):
    """TRL's parser, with errors that are raised and not printed together with pages of usage."""

    def error(self, message: str) -> NoReturn:
        """Raises what argparse would exit with."""
        raise ValueError(message)


def parse(
    *dataclass_types: type, argv: Sequence[str] | None = None, demo: str | Path | None = None
) -> tuple[Any, ...]:
    """
    Returns one object of each dataclass, from `--config file.yaml` and the command line, which has the last word.

    Args:
        dataclass_types (`type`):
            Dataclasses without a field in common: those of this module, a trainer's configuration.
        argv (`list[str]`, *optional*):
            Defaults to the command line.
        demo (`str` or `Path`, *optional*):
            The YAML file read where neither a `--config` nor a model nor a dataset is named.

    Returns:
        `tuple`, in the order of `dataclass_types`.

    Raises:
        ValueError: In a sentence, for an unknown name, a value of the wrong kind, or a file that cannot be read.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = _Parser(dataclass_types, allow_abbrev=False)
    parser.add_argument("--config", metavar="FILE", help="YAML file with any of these; the command line overrides it.")
    hints = {name: hint for kind in dataclass_types for name, hint in get_type_hints(kind).items()}
    given, unknown = parser.parse_known_args(argv)
    for text in sorted(unknown, key=lambda text: not text.startswith("-"))[:1]:
        raise ValueError(f"unknown argument {text!r}" + _closest(text.lstrip("-").split("=")[0], "--", hints))
    own = any(text.split("=")[0] in ("--model_name_or_path", "--dataset_name") for text in argv)
    if (config := given.config or (None if own else demo)) is not None:
        parser.set_defaults_with_config(**_read_config(str(config), parser, hints))
    for name, value in vars(parser.parse_known_args(argv)[0]).items():
        if name in hints:
            _check_value(name, value, hints[name])
    try:
        return parser.parse_args_into_dataclasses(argv, look_for_args_file=False)[: len(dataclass_types)]
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:  # of a library, which checks less
        raise ValueError(f"these arguments cannot be used together ({type(error).__name__}: {error})") from error


def _check_value(name: str, value: Any, hint: Any) -> None:
    """Refuses what has the right form and is no value all the same."""
    kinds = {get_origin(member) or member for member in (get_args(hint) or (hint,))}
    if isinstance(value, list) and not kinds & {list, Any} and get_origin(hint) is not list:
        raise ValueError(f"{name} has no value: `--` cannot be one")
    if isinstance(value, tuple) and any(isinstance(part, str) for part in value):
        raise ValueError(f"{name} is a list of numbers and has no form on a command line: put it into a YAML file")
    for number in value if isinstance(value, list | tuple) else [value]:
        if isinstance(number, float) and not math.isfinite(number):
            raise ValueError(f"{name} is {number}, but must be a finite number")
        if isinstance(number, int) and abs(number) >= 2**63:
            raise ValueError(f"{name} is {number}, but must be a number of at most 64 bits")
    if dict in kinds and isinstance(value, str) and not Path(value).is_file():
        try:
            json.loads(value).keys()
        except (ValueError, AttributeError) as error:
            raise ValueError(f'{name} is {value!r}, but must be a JSON object, such as {{"name": 1}}') from error


def _closest(name: str, prefix: str, known: Iterable[str]) -> str:
    """Returns the end of a sentence about an unknown name."""
    close = difflib.get_close_matches(name.replace("-", "_"), known, n=1)
    return f": did you mean {prefix}{close[0]}?" if close else ": --help lists what there is"


def _read_config(path: str, parser: _Parser, hints: dict[str, Any]) -> dict[str, Any]:
    """Returns the values of a YAML file, each checked and converted as on the command line."""
    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"the file of --config, {path!r}, cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, RecursionError, UnicodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} must have lines `name: value`, but is of type {type(config).__name__}")
    values = {}
    for name, value in config.items():
        if name not in hints:
            raise ValueError(f"{path}: unknown name {str(name)!r}" + _closest(str(name), "", hints))
        try:
            values[name] = _read_value(name, value, parser, hints[name])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return values


def _read_value(name: str, value: Any, parser: _Parser, hint: Any) -> Any:
    """Returns a value of a YAML file as the command line has it: YAML takes 1e-4 for text and `no` for false."""
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    kinds = {get_origin(member) or member for member in members}
    if tuple in kinds and isinstance(value, list):  # it has no form on a command line either
        return tuple(value)
    if (value is None or isinstance(value, dict | list)) and type(value) not in kinds:
        raise ValueError(f"{name} is {value!r}, but must be of type {' or '.join(map(_name, kinds))}")
    # An empty list and `str | list[str]` have no form on a command line, and are taken as they are.
    if value is None or isinstance(value, dict) or (isinstance(value, list) and (not value or str in kinds)):
        return value
    if isinstance(value, list):
        tokens = [f"--{name}", *(json.dumps(item) if isinstance(item, dict) else str(item) for item in value)]
    else:
        text = {True: "yes", False: "no"}[value] if isinstance(value, bool) and bool not in kinds else value
        tokens = [f"--{name}={text}"]
    return getattr(parser.parse_known_args(tokens)[0], name)


def _name(kind: Any) -> str:
    """Returns a type's name."""
    return "null" if kind is NoneType else getattr(kind, "__name__", str(kind))


def run(main: Callable[[], object]) -> None:
    """
    Calls the `main` of a recipe, and exits with a sentence where what it was told is wrong.

    `LMRL_DEBUG=1` shows the traceback. Of several processes that stop for the same reason only one speaks.

    Args:
        main (`Callable`):
            A `ValueError`, an `OSError`, a library that is not installed or another process that has died becomes
            `error: ...` and exit status 2, Ctrl-C exit status 130.
    """
    # TRL 1.16 still uses the names that transformers 5.23 calls deprecated; no one who runs a recipe can help it.
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated", category=FutureWarning)
    try:
        main()
        _leave()
    except SystemExit:  # as of a run that was told to stop, all processes after the same step
        _leave()
        raise
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if (sentence := _sentence(error)) is None:
            raise
        if os.environ.get("LMRL_DEBUG") == "1":
            traceback.print_exc()
        _say(f"error: {sentence}")
        sys.exit(2)


def _leave() -> None:
    """Parts the processes of a run. A thread of gloo that still drops a tensor when Python ends aborts the process."""
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        time.sleep(0.2)  # it waits for the interpreter's lock, which Python's exit would not give it any more
        distributed.destroy_process_group()


_GRACE = 5.0  # seconds in which a launcher ends the other processes once one has ended

# How gloo and NCCL say that another process is not there any more, or does not answer.
_LOST = (
    *("Connection closed by peer", "Connection reset by peer", "Connection refused", "Broken pipe"),
    *("Timed out waiting", "timed out", "Socket Timeout", "NCCL communicator was aborted", "remote process exited"),
)


def _sentence(error: Exception) -> str | None:
    """Returns what to say of an error; None if it is a bug, which Python shows with its traceback."""
    sentence = " ".join(str(error).split())
    if os.environ.get("WORLD_SIZE", "1") != "1" and any(sign in sentence for sign in _LOST):
        return (
            f"another process of this run has ended or does not answer ({sentence.rstrip('.')}). What it wrote says "
            "why; one that was killed wrote nothing, most often for lack of memory. Run the same command with "
            "--resume_from_checkpoint to go on from the newest checkpoint."
        )
    if type(error).__name__ in ("SafetensorError", "UnpicklingError") or "PytorchStreamReader failed" in sentence:
        return f"a file of weights or of a training state is damaged ({sentence.rstrip('.')}): take another checkpoint"
    if _is_of_an_option(error):
        return (
            f"a library was passed an option that it does not take ({sentence}): look at the arguments that are JSON "
            "objects, which go to it as they are; LMRL_DEBUG=1 shows where"
        )
    # A tracker that is not installed is a RuntimeError to transformers 5.23; any other is a bug.
    told = (ValueError, OSError, ImportError)
    if not isinstance(error, told) and not (isinstance(error, RuntimeError) and "to be installed" in sentence):
        return None
    return sentence or f"{type(error).__name__}, and nothing is said of the reason: LMRL_DEBUG=1 shows where"


def _is_of_an_option(error: Exception) -> bool:
    """A library calls one of its own functions with what it was given. A call of lmrl's or a recipe's is a bug."""
    if not isinstance(error, TypeError) or "unexpected keyword argument" not in str(error):
        return False
    caller = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    installed = not {"site-packages", "dist-packages"}.isdisjoint(caller.parts)
    return installed and not caller.is_relative_to(Path(__file__).parent)


def _say(sentence: str) -> None:
    """Prints on the first process, and on another if the first has not ended meanwhile: it has other troubles."""
    rank = os.environ.get("RANK", "0")
    if rank != "0":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the launcher's: whatever was to follow it is over
        time.sleep(_GRACE)
        sentence = f"process {rank}: {sentence}"
    print(sentence, file=sys.stderr, flush=True)
