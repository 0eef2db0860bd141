"""
Searches the arguments of a recipe for the best held-out score; each trial is a run of the recipe.

    python recipes/sweep.py --space '{"learning_rate": {"low": 1e-5, "high": 1e-3, "log": true}, "beta": [0.01, 0.1]}'
    python recipes/sweep.py --recipe ppo_gen --space space.yaml --objective bleu --max_kl 10 --workers 2 \\
        -- --config recipes/configs/demo_ppo.yaml --eval_strategy steps --eval_steps 10
    python recipes/sweep.py --recipe my_recipe.py --space space.yaml --objective my_score
    python recipes/sweep.py --help

The same command continues the study in --output_dir. The arguments behind `--` are the recipe's. A script of yours
takes --output_dir, and writes log.jsonl and after.json into it as the recipes do.
"""

import os
import shlex
import sys
from pathlib import Path

import lmrl.cli.instant_help  # noqa: F401  prints --help before the libraries are imported
from lmrl.cli import parse, recipe_arguments, run
from lmrl.experiment import weights_of_recipe
from lmrl.search import Sweep, SweepArguments, plot, read_space, summary
from lmrl.utils import aligned_lines


def main() -> None:
    """Runs the trials that are missing, then prints and plots the results of all."""
    argv = sys.argv[1:]
    end = argv.index("--") if "--" in argv else len(argv)
    (args,) = parse(SweepArguments, argv=argv[:end])
    path = Path(args.recipe) if args.recipe.endswith(".py") else Path(__file__).with_name(f"{args.recipe}.py")
    command = [min(os.path.relpath(path), str(path), key=len), *argv[end + 1 :]]

    # 1. The recipe checks its arguments before the first trial, if its parser is lmrl's.
    arguments = recipe_arguments(command)
    types = None if arguments is None else {name: argument["type"] for name, argument in arguments.items()}
    space = read_space(args.space, types)
    values = {} if arguments is None else {name: argument["value"] for name, argument in arguments.items()}
    if values.get("eval_output_dir") is not None:
        raise ValueError(f"`eval_output_dir` must not be set in a sweep, got {values['eval_output_dir']!r}.")
    if args.objective == "reward" and {"rewards", "reward_weights"} & set(space):
        raise ValueError("`objective` must be a metric where rewards are searched, got 'reward'. For example: bleu.")
    if args.prune and values.get("eval_strategy") == "no":
        print("No trial is pruned: there is no --eval_strategy steps --eval_steps 20 behind `--`.", file=sys.stderr)
    weights = weights_of_recipe(values, args, space)

    # 2. The trials.
    sweep = Sweep(args, command, space, weights)
    facts = {"recipe": shlex.join(command), "space": f"{args.space}"}
    facts |= {"trials": f"{args.trials}, {args.workers} at a time, to {sweep.direction} {args.objective}"}
    facts |= {"max_kl": f"{args.max_kl}", "output": f"{args.output_dir}; a trial that runs writes trial-*/run.log"}
    print(aligned_lines(facts), file=sys.stderr)
    sweep.run()
    plot(sweep)
    print(summary(sweep))
    print(f"Plots: {args.output_dir}/*.svg. Report of each trial: {args.output_dir}/trial-*/report.html")


if __name__ == "__main__":
    run(main)
