#!/usr/bin/env python3
"""Splits E2E's training rows for a study of the gap between prompts that are trained on and others.

    python scripts/make_e2e_rows.py data/e2e data/e2e_gap

The folder gets, as JSON lines, the same on every machine:

- `most.jsonl`: nine tenths of the meaning representations, to train on;
- `tenth.jsonl`: the other tenth;
- `trained.jsonl`: as many rows of `most.jsonl` as the tenth has, to score what was trained on;
- `dropped.jsonl`: `most.jsonl` and further meaning representations, each one of its own less a slot, with those of its
  references that do not name the value. None of them occurs in the tenth or in dev.jsonl;
- `typical.jsonl`: `most.jsonl` with the two references of each row that are nearest to its others by sentence BLEU.
"""

import argparse
import json
import random
import re
from pathlib import Path
from typing import Any

from lmrl.rewards import BLEU

SLOT = re.compile(r"(\w[\w ]*)\[([^\]]*)\]")
# Slots whose value a text takes over to the letter, so that one can see whether a reference names it.
NAMED_LITERALLY = ("near", "food", "area", "eatType")
LEAST_REFERENCES = 2
TYPICAL_REFERENCES = 2

Row = dict[str, Any]


def without_slots(rows: list[Row], known: set[str]) -> list[Row]:
    """Returns new rows, each one of `rows` without a slot.

    Args:
        rows: rows with `mr` and `references`.
        known: meaning representations that no new row may have.
    """
    known = set(known)
    new: list[Row] = []
    for row in rows:
        slots = SLOT.findall(row["mr"])
        for dropped, value in slots:
            rest = ", ".join(f"{name}[{text}]" for name, text in slots if name != dropped)
            references = [text for text in row["references"] if value.lower() not in text.lower()]
            if dropped not in NAMED_LITERALLY or rest in known or len(references) < LEAST_REFERENCES:
                continue
            known.add(rest)
            new.append({"mr": rest, "references": references})
    return new


def with_typical_references(rows: list[Row]) -> list[Row]:
    """Returns the rows, each with those distinct references that have the most BLEU against the row's other ones."""
    typical: list[Row] = []
    for row in rows:
        references = list(dict.fromkeys(row["references"]))
        others = [[text for text in references if text != reference] for reference in references]
        if len(references) > TYPICAL_REFERENCES:
            scores = BLEU()(completions=references, references=others)
            best = sorted(range(len(references)), key=lambda index: -scores[index])
            references = [references[index] for index in best[:TYPICAL_REFERENCES]]
        typical.append({"mr": row["mr"], "references": references})
    return typical


def split(rows: list[Row], seed: int = 0) -> tuple[list[Row], list[Row]]:
    """Returns nine tenths of the rows and the other tenth, each in a random order."""
    shuffled = list(rows)
    random.Random(seed).shuffle(shuffled)
    count = len(rows) // 10
    return shuffled[count:], shuffled[:count]


def read(path: Path) -> list[Row]:
    """Returns the rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    """Writes the five files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of train.jsonl and dev.jsonl")
    parser.add_argument("out", type=Path, help="folder to write")
    arguments = parser.parse_args()

    most, tenth = split(read(arguments.data / "train.jsonl"))
    held_out = tenth + read(arguments.data / "dev.jsonl")
    dropped = without_slots(most, {row["mr"] for row in most + held_out})
    files = {
        "most": most,
        "tenth": tenth,
        "trained": most[: len(tenth)],
        "dropped": most + dropped,
        "typical": with_typical_references(most),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (arguments.out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{arguments.out / name}.jsonl: {len(rows)} rows")


if __name__ == "__main__":
    main()
