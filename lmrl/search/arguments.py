"""What `recipes/sweep.py` can be told; what stands behind `--` is told to the recipe that it runs."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class SweepArguments:
    """A search over the arguments of a recipe."""

    recipe: Literal["reinforce_gen", "ppo_gen"] = field(
        default="reinforce_gen",
        metadata={
            "help": "Recipe of which each trial is a run. What stands behind `--` goes to it, its --config too."
        },
    )
    # The parser takes text for the last member, and YAML a mapping.
    space: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "What is searched, as JSON or as a YAML file; in the file of --config a mapping. By name of an "
            'argument of the recipe: a list of choices, or a range {"low": 1e-5, "high": 1e-3}, with "log": true or '
            'with "step": 2 if wanted.'
        },
    )
    objective: str = field(
        default="reward",
        metadata={
            "help": "Held-out score of the trained model: a name from its after.json, for example bleu, or `reward`, "
            "the weighted sum of the rewards."
        },
    )
    direction: Literal["maximize", "minimize"] = field(
        default="maximize", metadata={"help": "Which way the objective is better."}
    )
    max_kl: float | None = field(
        default=None,
        metadata={"help": "Held-out KL, in nats per completion, that the best trial may have paid. Default: any."},
    )
    trials: int = field(
        default=20, metadata={"help": "Trials in the study, those of earlier calls of the same command included."}
    )
    workers: int = field(
        default=1,
        metadata={
            "help": "Trials at a time. The same command may also run several times at once, for several GPUs say."
        },
    )
    prune: bool = field(
        default=True,
        metadata={
            "help": "Stop a trial that is worse than the median of the others at the same step. Needs evaluations "
            "during training: --eval_strategy steps --eval_steps 20 behind `--`."
        },
    )
    startup_trials: int = field(
        default=5,
        metadata={"help": "Trials drawn at random, and pruned by none, before anything is learned from them."},
    )
    seed: int = field(
        default=0,
        metadata={"help": "Seed of the search. That of the training is the recipe's, the same in each trial."},
    )
    output_dir: str = field(
        default="runs/sweep", metadata={"help": "Folder of the study, with a folder for each trial."}
    )

    def __post_init__(self) -> None:
        for name, least in {"trials": 1, "workers": 1, "startup_trials": 1, "seed": 0}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least {least}")
        if self.max_kl is not None and not self.max_kl > 0:
            raise ValueError(f"max_kl is {self.max_kl}, but must be over 0: only an untrained model has a KL of 0")
        if not self.space:
            raise ValueError(
                "space is not given: name arguments of the recipe, for example --space '{\"beta\": [0.01, 0.1]}'"
            )
