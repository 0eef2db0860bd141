"""The arguments of `recipes/sweep.py`; those of the recipe that it runs follow `--`."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from lmrl.settings import Settings
from lmrl.utils import check_at_least, check_in, option

# Recipes that train a model and evaluate it.
_SWEPT = ("reinforce_gen", "ppo_gen", "sft", "train_classifier", "train_reward_model")


@dataclass
class SweepArguments(Settings):
    """A search over the arguments of a recipe."""

    _remedy_for_others: ClassVar[str] = " Write arguments of the recipe behind `--`."

    recipe: str = option("reinforce_gen", "Recipe of the trials: its name, or a script. Its arguments follow `--`.")
    # The parser uses the union's last member for text; YAML gives a mapping.
    space: dict[str, Any] | str | None = option(
        None,
        "Arguments to search, as JSON or as a YAML file; in the file of --config a mapping. For each name a list of "
        'choices, or a range {"low": 1e-5, "high": 1e-3}, with "log": true or "step": 2 if wanted.',
    )
    objective: str = option(
        "reward", "Held-out score of the trained model: a name in its scores, or `reward`, the weighted rewards."
    )
    direction: Literal["maximize", "minimize"] | None = option(None, "Direction of the search. Default: the score's.")
    max_kl: float | None = option(None, "Largest KL of the best trial, in nats per completion. Default: no bound.")
    trials: int = option(20, "Trials in the study, those of earlier calls of the same command included.")
    workers: int = option(1, "Trials at a time. The same command may also run several times at once, one per GPU.")
    prune: bool = option(True, "Stop trials worse than the median; needs --eval_strategy steps behind `--`.")
    startup_trials: int = option(5, "Trials that are drawn at random and not pruned, before the search adapts.")
    seed: int = option(0, "Seed of the search. The seed of the training is the recipe's, the same in each trial.")
    output_dir: str = option("runs/sweep", "Folder of the study, with a folder for each trial.")
    overwrite: bool = option(False, "Remove the study in output_dir, and begin anew. Without it, it is continued.")

    def __post_init__(self) -> None:
        if not self.recipe.endswith(".py"):
            check_in(_SWEPT, recipe=self.recipe)
        elif not Path(self.recipe).is_file():
            raise ValueError(
                f"`recipe` must be an existing script or one of {', '.join(_SWEPT)}, got {self.recipe!r}."
            )
        check_at_least(1, trials=self.trials, workers=self.workers, startup_trials=self.startup_trials)
        check_at_least(0, seed=self.seed)
        if self.max_kl is not None and not self.max_kl > 0:
            raise ValueError(f"`max_kl` must be above 0, got {self.max_kl}. Only an untrained model has a KL of 0.")
        if None in map(importlib.util.find_spec, ("filelock", "matplotlib", "optuna")):
            raise ImportError("A sweep needs filelock, matplotlib and optuna. Install lmrl[sweep].")
