"""A recipe that trains nothing and writes the files of a run at once, for the tests of seeds.

    recipe.py --seed 3 --output_dir FOLDER [--gain X] [--fail SEED] [--hang FILE] [--rows N] [--metric NAME]

It prints its arguments as recipes do that have parsed them by `from lmrl.cli import parse`. The score of a row is
`gain + seed / 10 + row / 100`, before training `row / 100`. A run that is to fail does so after a line.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=42)
parser.add_argument("--output_dir", default="runs/of_recipe")
parser.add_argument("--gain", type=float, default=1.0)
parser.add_argument("--fail", type=int)
parser.add_argument("--hang", type=Path)
parser.add_argument("--rows", type=int, default=5)
parser.add_argument("--metric", default="reward/bleu")
parser.add_argument("--eval_output_dir")
parser.add_argument("--resume_from_checkpoint")
parser.add_argument("--overwrite", action="store_true")
parser.add_argument("--print_arguments", action="store_true")
args = parser.parse_args()
if args.print_arguments:
    print(json.dumps({name: {"type": "str", "value": value} for name, value in vars(args).items()}, default=str))
    sys.exit(0)

folder = Path(args.output_dir)
with (folder / "argv.txt").open("a") as stream:
    stream.write(" ".join(sys.argv[1:]) + "\n")
(folder / "pid").write_text(str(os.getpid()))
steps = [{"step": step, "reward": args.gain + step + args.seed} for step in range(1, 6)]
(folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in steps))
if args.seed == args.fail:
    print("a line of the run\nerror: `gain` is of bad luck.\na warning that comes last")
    sys.exit(2)
while args.seed == 1 and args.hang and args.hang.exists():
    time.sleep(0.05)


def write(label: str, value: float) -> None:
    """Writes the scores of a label."""
    rows = [value + row / 100 for row in range(args.rows)]
    score = {"value": sum(rows) / len(rows), "signature": "s", "row_scores": rows, "higher_is_better": True}
    score |= {"pooling": "mean", "statistics": [[row, 1.0] for row in rows]}
    content = {"decoding": {}, "row_ids": [f"row {row}" for row in range(args.rows)], "completions": []}
    scores = {name: {"name": name, **score} for name in (args.metric, "length")}
    (folder / f"{label}.json").write_text(json.dumps({"scores": scores, **content}))


write("before", 0.0)
write("after", args.gain + args.seed / 10)
