"""Stands for a recipe where the sweep is what is tested: it takes arguments and leaves the files of a run, at once.

    child.py --x 3 --output_dir FOLDER [--hang FILE]

The objective is 10 x, seen as x at step 1, and the KL x; 13 is refused. With --hang it waits while FILE is there.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--x", type=float)
parser.add_argument("--output_dir", type=Path)
parser.add_argument("--hang", type=Path)
args = parser.parse_args()
if args.x == 13:
    print("error: x is 13, but must be luckier")
    print("a warning of some library that comes last")
    sys.exit(2)
args.output_dir.mkdir(parents=True, exist_ok=True)
(args.output_dir / "pid").write_text(str(os.getpid()))
with (args.output_dir / "log.jsonl").open("w") as stream:
    stream.write(json.dumps({"loss": 0.0, "step": 1}) + "\n" + json.dumps({"eval_bleu": args.x, "step": 1}) + "\n")
while args.hang and args.hang.exists():
    time.sleep(0.05)
time.sleep(0.5)  # longer than the sweep takes to look
made = {"row_scores": None, "higher_is_better": True, "statistics": None, "pooling": None}
scores = {"bleu": 10 * args.x, "kl": args.x}
written = {name: {"name": name, "value": value, "signature": name, **made} for name, value in scores.items()}
(args.output_dir / "after.json").write_text(json.dumps({"scores": written, "decoding": {}, "completions": []}))
