#!/usr/bin/env python3
"""Writes the rows of recipes/configs/chat_smollm2.yaml: `python scripts/make_chat_rows.py data/chat` (a second).

Each row asks a chat model for one sentence with three words: a person, a deed and a thing. No word of a held-out row
occurs in a training row, and no training row occurs twice. The rows are the same on every machine.
"""

import argparse
import itertools
import json
import random
from pathlib import Path

PERSONS = """
teacher doctor farmer sailor baker pilot nurse lawyer painter singer dancer writer soldier tailor barber mayor
butcher carpenter fisherman gardener hunter king queen priest scientist student uncle grandmother cousin
neighbour
"""
DEEDS = """
carried painted dropped borrowed cleaned opened repaired forgot bought hid washed burned lifted found threw
polished stole measured admired wrapped pushed collected sold tasted buried weighed followed counted mixed
guarded
"""
THINGS = """
basket candle mirror ladder bottle violin blanket compass hammer lantern kettle umbrella wallet carpet barrel
suitcase needle bucket pillow clock cupboard whistle telescope saddle teapot trumpet anchor wheel envelope drum
"""
HELD_OUT = 8  # of each list, from its end
COUNTS = {"train": 2000, "test": 200}


def rows_of(split: str, count: int) -> list[dict[str, object]]:
    """Returns rows of a split, in a random order that is always the same."""
    place = slice(-HELD_OUT, None) if split == "test" else slice(None, -HELD_OUT)
    triples = list(itertools.product(*(words.split()[place] for words in (PERSONS, DEEDS, THINGS))))
    rng = random.Random(split)
    rows: list[dict[str, object]] = []
    for triple in rng.sample(triples, count):
        words = rng.sample(triple, len(triple))
        prompt = f"Write one sentence of at most 20 words. It must have the words: {', '.join(words)}."
        rows.append({"prompt": prompt, "words": words})
    return rows


def main() -> None:
    """Writes train.jsonl and test.jsonl into a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write")
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in COUNTS.items():
        lines = [json.dumps(row) + "\n" for row in rows_of(split, count)]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{folder / split}.jsonl: {count} rows")


if __name__ == "__main__":
    main()
