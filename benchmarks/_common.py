"""Shared code of the benchmarks: settings of a model and its batch, arguments, the environment of a child, tables."""

import argparse
import json
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("generation", "scoring", "reward", "update", "other")
NUM_GENERATIONS = 4


@dataclass(frozen=True)
class Settings:
    """Settings of a child process. `folder` contains the model and its tokenizer."""

    folder: str
    precision: str
    threads: int
    steps: int
    layers: int
    width: int
    heads: int
    vocabulary: int
    prompts: int
    prompt_length: int
    new_tokens: int

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace, **others: Any) -> "Settings":
        """Returns the settings, taken from the arguments of the same names and from `others`."""
        fields = {name: value for name, value in vars(arguments).items() if name in cls.__annotations__}
        return cls(**(fields | others))


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Returns a parser whose help begins with the description, not reformatted."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_numbers(
    parser: argparse.ArgumentParser, numbers: Mapping[str, tuple[int | None, str]], least: int = 1
) -> None:
    """Adds arguments that are integers of at least `least`; `numbers` has default and help by name."""
    for name, (default, text) in numbers.items():
        shown = text if default is None else f"{text} (default: %(default)s)"
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=integer_from(least), default=default, metavar="N", help=shown)


def add_names(parser: argparse.ArgumentParser, flag: str, known: Collection[str]) -> None:
    """Adds an argument for some of the known names, separated by commas; by default all of them."""
    kind = names_of(known)
    parser.add_argument(flag, type=kind, default=list(known), metavar="A,B", help=f"some of {','.join(known)}")


def integer_from(least: int) -> Callable[[str], int]:
    """Returns a function that reads an integer of at least `least`."""

    def integer(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {text}")
        return int(text)

    return integer


def names_of(known: Collection[str]) -> Callable[[str], list[str]]:
    """Returns a function that reads some of the known names, separated by commas, and returns them in known order."""

    def names(text: str) -> list[str]:
        wanted = text.split(",")
        if unknown := set(wanted) - set(known):
            raise argparse.ArgumentTypeError(f"must be some of {','.join(known)}, got {','.join(sorted(unknown))}")
        return [name for name in known if name in wanted]

    return names


def child_environment(threads: int, cpu: bool) -> dict[str, str]:
    """Returns the environment of a child: `threads` threads for each library, at most one GPU, no network."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH")]
    first_gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "CUDA_VISIBLE_DEVICES": "" if cpu else first_gpu,
    }


def aligned(rows: list[list[str]], left: int = 1) -> str:
    """Returns rows as a table with the first `left` columns left-aligned and the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def write_results(path: Path | None, arguments: argparse.Namespace, results: dict[str, Any]) -> None:
    """Writes the arguments and the results as JSON to `path`, if that is not None."""
    if path is not None:
        given = {name: value for name, value in vars(arguments).items() if name != "json"}
        path.write_text(
            json.dumps({"arguments": given, "results": results}, indent=2, default=str) + "\n", encoding="utf-8"
        )
