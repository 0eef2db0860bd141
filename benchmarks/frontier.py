"""The KL that a reward costs: one recipe at several betas, as a table and a picture, beside a constant reward.

    python benchmarks/frontier.py --config recipes/configs/tinystories_sentiment.yaml --betas 0.02 0.1 0.5
    python benchmarks/frontier.py --recipe ppo_gen --betas 0.02 0.2 --out runs/frontier -- --max_steps 20

Arguments after `--` are passed to the recipe. `<out>/frontier.svg` shows the metric against the KL. The control trains
on a reward that is 0 for every text: a score that changes there does not change because of the reward. A run whose
scores are in its folder is not repeated: `--only` allows making runs in parallel, and a last call without it shows
them together. `--beside` also shows the runs of other such folders, for example of another recipe:

    python benchmarks/frontier.py --betas 0.02 0.2 --out runs/frontier --beside runs/frontier_of_ppo
"""

import argparse
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from lmrl.evaluation import Evaluation, as_text, read_json, scatter

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
CONTROL = "def constant(completions, **columns):\n    return [0.0] * len(completions)\n"
COLUMNS = ("kl", "perplexity", "distinct2", "repetition", "length", "unfinished")


def main() -> None:
    """Trains at each beta, then prints and plots the scores."""
    args = _arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    control = args.out / "control.py"
    control.write_text(CONTROL, encoding="utf-8")
    runs = {f"beta {beta:g}": ["--beta", str(beta)] for beta in args.betas}
    constant = ["--rewards", f"{control}:constant", "--reward_weights", "1", "--startup_checks", "no"]
    runs["constant reward"] = ["--beta", str(min(args.betas)), *constant]
    if args.only not in (None, *runs):
        sys.exit(f"error: --only must be one of {list(runs)}, got {args.only!r}.")
    folders = {label: args.out / label.replace(" ", "_") for label in runs}
    for label in [args.only] if args.only else runs:
        if (folders[label] / "after.json").is_file():
            print(f"{label}: taken from {folders[label]}", file=sys.stderr, flush=True)
        else:
            print(f"{label}: training", file=sys.stderr, flush=True)
            _train(args, [*runs[label], "--output_dir", str(folders[label])], folders[label])
    if args.only:
        return
    evaluations: dict[str, Evaluation] = {}
    for label, folder in folders.items():
        evaluations.setdefault("start", read_json(folder / "before.json"))
        evaluations[label] = read_json(folder / "after.json")
    for out in args.beside:
        found = sorted(out.glob("*/after.json"))
        if not found:
            sys.exit(f"error: --beside must be a folder of such runs, got {out}, which has no */after.json.")
        evaluations |= {f"{path.parent.name.replace('_', ' ')}, {out.name}": read_json(path) for path in found}
    shared = set.intersection(*(set(evaluation.scores) for evaluation in evaluations.values()))
    scores = [name for name in evaluations["constant reward"].scores if name in shared]
    rewards = [name for name in scores if name.startswith("reward/")]
    metric = _metric(args.metric, [*rewards, *scores])
    print(_table(evaluations, list(dict.fromkeys([metric, *rewards, *(name for name in COLUMNS if name in shared)]))))
    points = {label: (found.values["kl"], found.values[metric]) for label, found in evaluations.items()}
    picture = scatter(points, title=f"{metric} against KL", x_label="KL, nats per completion", y_label=metric)
    (args.out / "frontier.svg").write_text(picture, encoding="utf-8")
    print(f"Picture: {args.out / 'frontier.svg'}. Each run's report: {args.out}/*/report.html")


def _metric(name: str | None, names: list[str]) -> str:
    """Returns the score for the vertical axis, which must be one of the names; by default the first of them."""
    if name not in (None, *names):
        known = ", ".join(dict.fromkeys(names))
        sys.exit(f"error: --metric must be one of {known}, got {name!r}. The runs are kept: give another.")
    return name or names[0]


def _train(args: argparse.Namespace, settings: list[str], folder: Path) -> None:
    """Runs the recipe with its output in a file, and exits with the end of the output if the recipe fails."""
    config = ["--config", str(args.config)] if args.config else []
    path = args.recipe if args.recipe.endswith(".py") else str(RECIPES / f"{args.recipe}.py")
    command = [sys.executable, path, *config, *args.rest, *settings]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "run.log").open("w", encoding="utf-8") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        lines = (folder / "run.log").read_text(encoding="utf-8").strip().split("\n")[-5:]
        sys.exit("\n".join([*lines, f"error: {' '.join(command)} failed. Its output is in {folder / 'run.log'}."]))


def _table(evaluations: Mapping[str, Evaluation], names: list[str]) -> str:
    from rich import box
    from rich.table import Table

    table = Table("", *names, box=box.SIMPLE_HEAD)
    for label, evaluation in evaluations.items():
        table.add_row(label, *(f"{evaluation.values[name]:.3f}" for name in names))
    return as_text(table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="reinforce_gen", help="name of a recipe, or the path of a script like it")
    parser.add_argument("--config", type=Path, help="YAML file of the recipe; default: the recipe's demo")
    parser.add_argument("--betas", type=float, nargs="+", default=[0.02, 0.1, 0.5], help="KL coefficients")
    parser.add_argument(
        "--metric", help="score on the picture's vertical axis; default: the first of --eval_metrics, or else of all"
    )
    parser.add_argument("--only", metavar="LABEL", help='make this run alone, for example "beta 0.1"')
    parser.add_argument("--out", type=Path, default=Path("runs/frontier"))
    parser.add_argument("--beside", type=Path, nargs="+", default=[], metavar="OUT", help="show the runs there too")
    parser.add_argument("rest", nargs="*", help="after `--`: arguments of the recipe")
    return parser.parse_args()


if __name__ == "__main__":
    main()
