"""A key that an object or a mapping has twice is refused wherever users write one; Python's readers take the last."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lmrl.arguments.checks import json_object, reward_spec
from lmrl.cli import parse
from lmrl.data import load_prompts
from lmrl.evaluation.outputs import _id_and_text
from lmrl.rewards import make_reward
from lmrl.rewards.corpus import read_corpus
from lmrl.search import read_space
from lmrl.utils import parse_json

TWICE = r"\(?the key 'n' is there 2 times, with 1 and 2\)?"
LENGTH = '{"length": {"n": 1, "n": 2}}'


@dataclass
class Options:
    """An argument that is an object."""

    options: dict[str, Any] | str | None = None


def written(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda _: json_object("name", '{"n": 1, "b": {"a": 2}, "n": 2}'), f"`name` must be a JSON object, .*{TWICE}"),
        (lambda _: parse(Options, argv=["--options", '{"a": {"n": 1, "n": 2}}']), f"`options` must be a .*{TWICE}"),
        (lambda _: reward_spec(LENGTH), f"must be valid JSON, got .*{TWICE}"),
        (lambda _: make_reward(LENGTH), f"A reward in braces must be JSON such as .*, got .*{TWICE}"),
        (
            lambda _: read_space('{"n": [1], "n": [2]}'),
            r"`space` must be JSON or a YAML file, .*the key 'n' is there 2",
        ),
        (
            lambda folder: read_space(written(folder, "s.yaml", "beta:\n  low: 1\n  high: 2\n  low: 1\n")),
            "s.yaml: `low` must be given once, got it in lines 2 and 4",
        ),
        (
            lambda folder: parse(
                Options, argv=["--config", written(folder, "c.yaml", "options:\n  a: {n: 1,\n    n: 2}\n")]
            ),
            "c.yaml: `n` must be given once, got it in lines 2 and 3",
        ),
        (
            lambda folder: load_prompts(written(folder, "r.jsonl", '{"prompt": "a"}\n{"n": 1, "n": 2}\n')),
            rf"r.jsonl', line 2: {TWICE}\. Remove one of them: '{{\"n\": 1, \"n\": 2}}'",
        ),
        (
            lambda folder: load_prompts(written(folder, "r.json", '[{"prompt": "a"},\n {"n": 1, "n": 2}]')),
            rf"r.json': {TWICE}\. Remove one of them",
        ),
        (
            lambda folder: read_corpus(
                written(folder, "c.jsonl", '{"references": "a"}\n{"n": 1, "n": 2}'), "references"
            ),
            rf"`corpus` must be JSONL, got .*c.jsonl {TWICE}",
        ),
        (lambda _: _id_and_text("texts.jsonl, line 1", '{"n": 1, "n": 2}'), f"texts.jsonl, line 1: .*{TWICE}"),
    ],
    ids=[
        *("argument", "command line", "reward of a command line", "reward", "space", "space in a file"),
        *("file of settings", "rows", "array of rows", "corpus", "texts of a system"),
    ],
)
def test_a_key_that_is_there_twice_is_named(read: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, argparse.ArgumentTypeError), match=message):
        read(tmp_path)


def test_equal_keys_of_different_objects_are_no_repetition() -> None:
    assert parse_json('{"a": 1, "b": {"a": 2}, "c": [{"a": 3}]}') == {"a": 1, "b": {"a": 2}, "c": [{"a": 3}]}
