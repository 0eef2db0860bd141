"""Quality after equal time: lmrl's REINFORCE and PPO, and TRL's RLOO, on one task, with several seeds.

    python benchmarks/equal_time.py --minutes 4 -- --model_name_or_path runs/e2e_sft \\
        --dataset_name data/e2e/train.jsonl --eval_dataset_name data/e2e/dev.jsonl
    python benchmarks/equal_time.py --minutes 1 --marks 2 --seeds 0 \\
        --reinforce recipes/configs/demo_reinforce.yaml --ppo recipes/configs/demo_ppo.yaml

Arguments after `--` are passed to all recipes. Runs are separate processes, one after another. The clock of a run
counts only its steps, not loading or the evaluations at the marks. TRL's RLOO has the settings of REINFORCE's file and
the same rewards, and is evaluated by the same code. The last table has the differences over seeds and rows. A run
whose results are in its folder is not repeated. `<out>/equal_time.svg` shows the metric against the time, a line for
each seed.
"""

import argparse
import json
import math
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

from _common import ROOT, add_names, add_numbers, aligned, child_environment, make_parser

from lmrl.evaluation import read_json
from lmrl.seeds import compare_seeds

CONTENDERS = {"trl": "TRL RLOO", "reinforce": "lmrl REINFORCE", "ppo": "lmrl PPO"}
CONFIGS = ROOT / "recipes" / "configs"
GIB = 1024**3

Marks = list[dict[str, Any]]


def parse() -> argparse.Namespace:
    """Returns the arguments of the command line."""
    parser = make_parser(__doc__)
    numbers: dict[str, tuple[int | None, str]] = {
        "minutes": (4, "minutes of training of each run"),
        "marks": (4, "evaluations of each run, at equal distances"),
        "threads": (1, "threads of torch"),
    }
    add_numbers(parser, numbers)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
    parser.add_argument("--metric", default="bleu", help="score to compare (default: %(default)s)")
    parser.add_argument("--reinforce", type=Path, default=CONFIGS / "e2e_reinforce.yaml", help="of REINFORCE and TRL")
    parser.add_argument("--ppo", type=Path, default=CONFIGS / "e2e_ppo.yaml", help="of PPO")
    add_names(parser, "--only", CONTENDERS)
    parser.add_argument("--out", type=Path, default=Path("runs/equal_time"))
    parser.add_argument("rest", nargs="*", help="after `--`: arguments of the recipes")
    return parser.parse_args()


def train(name: str, seed: int, arguments: argparse.Namespace) -> Path:
    """Trains a contender with a seed, unless that was done before, and returns the folder with its results."""
    folder = arguments.out / name / f"seed-{seed}"
    if (folder / "marks.json").is_file():
        print(f"{CONTENDERS[name]}, seed {seed}: taken from {folder}", file=sys.stderr, flush=True)
        return folder
    print(f"{CONTENDERS[name]}, seed {seed}: training", file=sys.stderr, flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    config = arguments.ppo if name == "ppo" else arguments.reinforce
    marks = [60 * arguments.minutes * (place + 1) / arguments.marks for place in range(arguments.marks)]
    command = [sys.executable, str(Path(__file__).with_name("_equal_time.py")), name, str(folder), json.dumps(marks)]
    command += ["--config", str(config), *arguments.rest, "--seed", str(seed)]
    with (folder / "run.log").open("w", encoding="utf-8") as log:
        environment = child_environment(arguments.threads, cpu=False)
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    if done.returncode:
        lines = (folder / "run.log").read_text(encoding="utf-8").strip().split("\n")[-5:]
        sys.exit("\n".join([*lines, f"error: {' '.join(command)} failed. Its output is in {folder / 'run.log'}."]))
    return folder


def check_metric(name: str, folder: Path) -> None:
    """Exits with an error if the scores of a run do not have the metric; finished runs are kept."""
    names = list(read_json(folder / "after.json").scores)
    if name not in names:
        sys.exit(f"error: --metric must be one of {', '.join(names)}, got {name!r}. {folder} is kept: give another.")


def main() -> None:
    arguments = parse()
    folders: dict[str, list[Path]] = {name: [] for name in arguments.only}
    for seed in arguments.seeds:
        for name in arguments.only:
            folders[name].append(train(name, seed, arguments))
            check_metric(arguments.metric, folders[name][-1])
    marks = {
        name: [json.loads((folder / "marks.json").read_text(encoding="utf-8")) for folder in own]
        for name, own in folders.items()
    }
    print(table(marks, arguments.metric), end="\n\n")
    print(differences(folders))
    draw(marks, arguments)


def table(marks: dict[str, list[Marks]], metric: str) -> str:
    """Returns the table of means over seeds at each mark: time, updates, completions, scores and memory."""
    rows = [["", "minutes", "updates", "completions", metric, "of the seeds", "KL", "length", "GiB"]]
    for name, runs in marks.items():
        for at in zip(*runs, strict=True):
            scores = [one["scores"] for one in at]
            values = [score[metric] for score in scores]
            averages = [mean(one[column] for one in at) for column in ("seconds", "step", "completions", "peak")]
            rows.append(
                [
                    CONTENDERS[name],
                    f"{averages[0] / 60:.2f}",
                    f"{averages[1]:.0f}",
                    f"{averages[2]:.0f}",
                    f"{mean(values):.2f}",
                    ", ".join(f"{value:.2f}" for value in values),
                    f"{mean(score['kl'] for score in scores):.2f}" if "kl" in scores[0] else "",
                    f"{mean(score['length'] for score in scores):.1f}",
                    f"{averages[3] / GIB:.2f}",
                ]
            )
    return aligned(rows)


def differences(folders: dict[str, list[Path]]) -> str:
    """
    Returns the differences between every two contenders in each score at the end, over seeds and rows. They have no
    interval with fewer than three seeds, and p-values are not corrected for their number.
    """
    last = {name: [read_json(folder / "after.json").scores for folder in own] for name, own in folders.items()}
    rows = [["", "minus", "score", "difference", "95 %", "p"]]
    for other, name in combinations(folders, 2):
        for score in last[name][0]:
            found = compare_seeds(*([scores[score] for scores in last[side]] for side in (other, name)))
            cells = [f"{found.effect:+.4g}", "", ""]  # diversity and fewer than three seeds have no interval
            if not math.isnan(found.low):
                cells[1:] = f"[{found.low:+.4g}, {found.high:+.4g}]", f"{found.p_value:.3f}"
            rows.append([CONTENDERS[name], CONTENDERS[other], score, *cells])
    return aligned(rows, left=3)


def draw(marks: dict[str, list[Marks]], arguments: argparse.Namespace) -> None:
    """Draws the metric of each seed against minutes of training."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, place = pyplot.subplots(figsize=(6.5, 3.8), layout="constrained")
    for index, (name, runs) in enumerate(marks.items()):
        for seed, run in enumerate(runs):
            minutes = [one["seconds"] / 60 for one in run]
            values = [one["scores"][arguments.metric] for one in run]
            label = CONTENDERS[name] if seed == 0 else None
            place.plot(minutes, values, marker="o", markersize=3, color=f"C{index}", alpha=0.8, label=label)
    place.set_xlabel("minutes of training")
    place.set_ylabel(arguments.metric)
    place.grid(alpha=0.3)
    place.legend()
    figure.savefig(arguments.out / "equal_time.svg")
    print(f"Picture: {arguments.out / 'equal_time.svg'}")


if __name__ == "__main__":
    main()
