"""
Searches the arguments of a recipe for the best held-out score; each trial is a run of the recipe.

    python recipes/sweep.py --space '{"learning_rate": {"low": 1e-5, "high": 1e-3, "log": true}, "beta": [0.01, 0.1]}'
    python recipes/sweep.py --recipe ppo_gen --space space.yaml --objective bleu --max_kl 10 --workers 2 \\
        -- --config recipes/configs/demo_ppo.yaml --eval_strategy steps --eval_steps 10
    python recipes/sweep.py --help

The same command goes on with the study in --output_dir. What stands behind `--` goes to the recipe.
"""

import os
import sys
from pathlib import Path
from typing import get_type_hints

from lmrl.arguments import DataArguments, EvaluationArguments, ModelArguments, RewardArguments
from lmrl.cli import parse, run
from lmrl.search import Objective, Sweep, SweepArguments, draw, read_space, summary
from lmrl.trainers import PPOConfig, ReinforceConfig

HERE = Path(__file__).parent
SHARED = (ModelArguments, DataArguments, RewardArguments, EvaluationArguments)
RECIPES = {
    "reinforce_gen": ((*SHARED, ReinforceConfig), "demo_reinforce.yaml"),
    "ppo_gen": ((*SHARED, PPOConfig), "demo_ppo.yaml"),
}


def main() -> None:
    """Run the trials that are missing, and print and draw what came of all."""
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    own, rest = words[:cut], words[cut + 1 :]
    (args,) = parse(SweepArguments, argv=own)
    kinds, demo = RECIPES[args.recipe]
    space = read_space(args.space, {name: hint for kind in kinds for name, hint in get_type_hints(kind).items()})
    # Read here too: what every trial would refuse is refused before the first.
    _, _, rewarded, evaluation, config = parse(*kinds, argv=rest, demo=HERE / "configs" / demo)
    if evaluation.eval_output_dir is not None:
        raise ValueError("eval_output_dir is set, but a trial's scores lie in its own folder: leave it out")
    if args.objective == "reward" and {"rewards", "reward_weights"} & set(space):
        raise ValueError(
            "objective is reward, which is another one with other rewards: name a metric, for example bleu"
        )
    if args.prune and config.eval_strategy == "no":
        print("No trial is pruned: behind -- there is no --eval_strategy steps --eval_steps 20", file=sys.stderr)

    weights = config.reward_weights or [1.0] * len(rewarded.rewards)
    objective = Objective(args.objective, args.direction, args.max_kl, weights)
    path = HERE / f"{args.recipe}.py"
    command = [min(os.path.relpath(path), str(path), key=len), *rest]
    sweep = Sweep(Path(args.output_dir), command, space, objective, args.seed, args.startup_trials, prune=args.prune)
    sweep.run(args.trials, args.workers)
    picture = sweep.folder / "sweep.svg"
    picture.write_text(draw(sweep), encoding="utf-8")
    print(summary(sweep))
    print(f"Picture: {picture}. Each trial's report: {sweep.folder}/trial-*/report.html")


if __name__ == "__main__":
    run(main)
