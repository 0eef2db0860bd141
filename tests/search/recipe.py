"""A script that takes arguments and writes the files of a run at once, for the tests of the sweep.

    recipe.py --x 3 --output_dir FOLDER [--hang FILE]

Each score is 10 x, BLEU at step 1 of the log is x, and the KL is x; 13 is refused. 11 and 12 have a reward, 10 x, that
no row of 11 has, and no KL that is a number. With --hang it waits while the file exists.
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
    print("error: `x` must be a lucky number, got 13.")
    print("a warning of some library that comes last")
    sys.exit(2)
args.output_dir.mkdir(parents=True, exist_ok=True)
(args.output_dir / "pid").write_text(str(os.getpid()))
with (args.output_dir / "log.jsonl").open("w") as stream:
    stream.write(json.dumps({"loss": 0.0, "step": 1}) + "\n" + json.dumps({"eval_bleu": args.x, "step": 1}) + "\n")
    if args.x == 11:
        stream.write(json.dumps({"eval_reward/a": None, "step": 1}) + "\n")
while args.hang and args.hang.exists():
    time.sleep(0.05)
time.sleep(0.5)  # longer than the sweep waits between two looks at the log
scores = {name: {"value": 10 * args.x} for name in ("bleu", "ter", "loss")}
scores["loss"]["higher_is_better"] = False
scores["kl"] = {"value": args.x}
if args.x in (11, 12):
    scores["reward/a"] = {"value": None if args.x == 11 else 10 * args.x}
    scores["kl"]["value"] = None
(args.output_dir / "after.json").write_text(json.dumps({"scores": scores}))
