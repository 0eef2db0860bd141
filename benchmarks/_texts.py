"""The texts of rewards.py, which resemble those of training and are the same in every run."""

import json
import os
import random
import re
from dataclasses import dataclass
from pathlib import Path

from lmrl.data import demo_rows

DATA = Path(os.environ.get("LMRL_DATA", os.devnull))  # without the variable, no file exists below it
E2E = DATA / "data/e2e/dev.jsonl"
STORIES = DATA / "data/tinystories/tinystories_1000.json"
SUMMARY_WORDS = 200
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


@dataclass(frozen=True)
class Texts:
    """The references of each row, and the completions of each row for each pass over the rows."""

    source: str
    references: list[list[str]]
    completions: list[list[list[str]]]


def sentences(rows: int, per_row: int, passes: int) -> Texts:
    """Returns short texts with several references: the E2E development set, or else the demo corpus."""
    source = "demo corpus"
    records = demo_rows("train")
    if E2E.is_file():
        source = "E2E dev"
        records = [json.loads(line) for line in E2E.read_text(encoding="utf-8").splitlines()]
    return _with_completions(source, [row["references"] for row in records[:rows]], per_row, passes)


def summaries(rows: int, per_row: int, passes: int) -> Texts:
    """Returns texts of 200 words, one sentence per line: TinyStories, or else sentences of the demo corpus."""
    source = "demo corpus"
    stories = [row["references"][0] for row in demo_rows("train")]
    if STORIES.is_file():
        source = "TinyStories"
        stories = json.loads(STORIES.read_text(encoding="utf-8"))
    words = " ".join(stories).split()
    starts = range(0, len(words) - SUMMARY_WORDS, SUMMARY_WORDS)
    texts = [SENTENCE_END.sub("\n", " ".join(words[start : start + SUMMARY_WORDS])) for start in starts]
    return _with_completions(source, [[text] for text in texts[:rows]], per_row, passes)


def _with_completions(source: str, references: list[list[str]], per_row: int, passes: int) -> Texts:
    rng = random.Random(0)

    def row(index: int) -> list[str]:
        own = references[index]
        next_row = references[(index + 1) % len(references)]
        return [_written_like(rng.choice(own), rng.choice(next_row), rng) for _ in range(per_row)]

    return Texts(source, references, [[row(index) for index in range(len(references))] for _ in range(passes)])


def _written_like(text: str, other: str, rng: random.Random) -> str:
    """Returns the text as a half-trained model might write it: one word in ten missing, one in five another's."""
    others = other.split(" ")
    words = [rng.choice(others) if rng.random() < 0.2 else word for word in text.split(" ") if rng.random() > 0.1]
    return " ".join(words)
