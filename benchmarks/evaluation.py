"""Seconds to score a corpus with each metric, to compute its confidence interval, and to compare, on one core.

    python benchmarks/evaluation.py train.jsonl                # 10,000 completions of 8 references
    python benchmarks/evaluation.py train.jsonl --rows 200     # seconds, to see that it runs

The file has a row with `references` (a list of texts) on each line. A completion is the last reference of its row (of
the next row for every fourth one) with two words left out, so that there are near hits and misses, as with models.
Rows with too few references get those of the next row as well; if the file has fewer rows than --rows, its rows are
repeated in the same order, too far apart for a cache of references to help.
"""

import argparse
import json
import os
import random
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

from _common import add_names, add_numbers, make_parser

from lmrl.evaluation import Corpus, bootstrap_interval, compare, score_completions
from lmrl.evaluation.metrics import METRICS, REFERENCE_METRICS


def parse() -> argparse.Namespace:
    """Returns the arguments of the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("file", type=Path, help="rows with references, one JSON object per line")
    numbers: dict[str, tuple[int | None, str]] = {
        "rows": (10_000, "completions"),
        "references": (8, "references of each"),
        "samples": (1000, "bootstrap samples of an interval"),
        "trials": (10_000, "swaps of a comparison"),
    }
    add_numbers(parser, numbers)
    add_names(parser, "--metrics", METRICS)
    return parser.parse_args()


def corpus(arguments: argparse.Namespace, seed: int) -> tuple[list[str], list[list[str]]]:
    """Returns completions and their references."""
    chosen = random.Random(seed)
    lines = arguments.file.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line)["references"] for line in lines]
    rows = [rows[i % len(rows)] for i in range(arguments.rows)]
    texts = []
    for place in range(len(rows)):
        source = rows[(place + (place % 4 == 3)) % len(rows)]
        words = source[-1].split()
        for _ in range(min(2, len(words) - 1)):
            words.pop(chosen.randrange(len(words)))
        texts.append(" ".join(words))
    wanted = arguments.references
    return texts, [(row[:-1] + rows[(i + 1) % len(rows)] + row * wanted)[:wanted] for i, row in enumerate(rows)]


def as_corpus(texts: list[str], references: list[list[str]] | None) -> Corpus:
    """Returns a corpus in which each text is the only completion of its prompt."""
    lengths = [len(text.split()) for text in texts]
    return Corpus(texts, references, range(len(texts)), lengths, [True] * len(texts))


def score(arguments: argparse.Namespace, texts: list[str], references: list[list[str]]) -> dict[str, Any]:
    """Prints and returns for each metric the seconds that it took, and its score."""
    found = {}
    for name in arguments.metrics:
        golds = references if name in REFERENCE_METRICS else None
        few = golds and golds[:2]
        score_completions(as_corpus(texts[:2], few), [name])  # its imports
        start = time.process_time()  # of this process only, whatever else runs
        scores = score_completions(as_corpus(texts, golds), [name])
        found[name] = time.process_time() - start, scores[name]
        print(f"{name:12}{found[name][0]:7.2f}{scores[name].value:9.2f}", flush=True)
    return found


def main() -> None:
    arguments = parse()
    texts, references = corpus(arguments, seed=1)
    others, _ = corpus(arguments, seed=2)
    count = sum(map(len, references)) / len(references)
    print(f"{len(texts)} completions, {count:.1f} references each\n\n{'':12}seconds    score")
    found = score(arguments, texts, references)
    overlap = sum(seconds for name, (seconds, _) in found.items() if name in REFERENCE_METRICS)
    print(f"\nmetrics with references: {overlap:.1f} s")
    for name in [name for name in ("bleu", "chrf", "rougeL") if name in found]:
        after = score_completions(as_corpus(others, references), [name])[name]
        start = time.process_time()
        bootstrap_interval(after, samples=arguments.samples)
        middle = time.process_time()
        compare(found[name][1], after, samples=arguments.samples, trials=arguments.trials)
        print(
            f"{name}: {middle - start:.2f} s for an interval of {arguments.samples} draws, "
            f"{time.process_time() - middle:.2f} s for a comparison with {arguments.trials} swaps as well"
        )


if __name__ == "__main__":
    main()
