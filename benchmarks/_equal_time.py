"""The child process of equal_time.py: it trains one contender, and evaluates it at given training times (marks)."""

import copy
import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from _measure import now, peak_memory
from transformers import TrainerCallback

from lmrl.arguments import DataArguments, EvaluationArguments, ModelArguments, OutputArguments, RewardArguments
from lmrl.cli import parse, run
from lmrl.evaluation import Evaluator, write_json
from lmrl.experiment import load_policy, load_rows, make_evaluator
from lmrl.rewards import make_rewards
from lmrl.trainers import PPOConfig, PPOTrainer, ReinforceConfig, ReinforceTrainer
from lmrl.trainers.engines import gathered_policy

GROUPS = (ModelArguments, DataArguments, RewardArguments, EvaluationArguments, OutputArguments)
ENDLESS = 10**9
# Sizes of a rollout: a configuration accepts only one of them, and derives the other.
OF_ROLLOUT = ("generation_batch_size", "steps_per_generation")


class Marks(TrainerCallback):
    """
    Evaluates the policy when the clock of training passes each mark, and stops after the last.

    The clock runs only during steps, not during an evaluation.
    """

    def __init__(self, marks: list[float], evaluator: Evaluator, folder: Path) -> None:
        self.left = list(marks)
        self.evaluator = evaluator
        self.folder = folder
        self.trained = 0.0
        self.found: list[dict[str, Any]] = []

    def watch(self, trainer: Any) -> None:
        """Sets the trainer, and evaluates its policy before training."""
        self.trainer = trainer
        write_json(self.folder / "before.json", self._evaluate(0))

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Starts the clock before the rollout: Trainer has only drawn the prompts."""
        self.started = now()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stops the clock, and evaluates if a mark has been passed."""
        self.trained += now() - self.started
        if self.trained < self.left[0]:
            return
        while self.left and self.left[0] <= self.trained:
            self.left.pop(0)
        evaluation = self._evaluate(state.global_step)
        if not self.left:
            write_json(self.folder / "after.json", evaluation)
            control.should_training_stop = True

    def _evaluate(self, step: int) -> Any:
        args = self.trainer.args
        memory = peak_memory()
        # TRL's as well in the precision of its weights, without autocast.
        with gathered_policy(self.trainer.model_wrapped, self.trainer.accelerator, args) as policy:
            was_training = policy.training
            evaluation = self.evaluator(policy)
            policy.train(was_training)
        batches = step * args.gradient_accumulation_steps
        completions = -(-batches // args.num_iterations) * args.per_device_train_batch_size
        counts = {"seconds": self.trained, "step": step, "completions": completions, "peak": memory}
        counts["weights"] = sum(weight.numel() for weight in self.trainer.model.parameters() if weight.requires_grad)
        self.found.append(counts | {"scores": evaluation.values})
        return evaluation


def make_trainer(name: str, given: dict[str, Any], config: Any) -> Any:
    """Returns the trainer of a contender, from the arguments `given` to all three and lmrl's configuration."""
    if name == "ppo":
        return PPOTrainer(args=config, **given)
    if name == "reinforce":
        return ReinforceTrainer(args=config, **given)
    from trl import RLOOConfig, RLOOTrainer

    names = [field.name for field in fields(RLOOConfig) if field.init and field.name not in OF_ROLLOUT]
    return RLOOTrainer(args=RLOOConfig(**{name: getattr(config, name) for name in names}), **given)


def main() -> None:
    name, folder, marks = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    config_class = PPOConfig if name == "ppo" else ReinforceConfig
    fixed = ["--max_steps", str(ENDLESS), "--output_dir", str(folder), "--logging_strategy", "no"]
    groups = parse(*GROUPS, config_class, argv=[*sys.argv[4:], *fixed, "--disable_tqdm", "true"])
    model_args, data_args, reward_args, eval_args, _, config = groups
    if config.lr_scheduler_type != "constant" or config.steps_per_generation != 1:
        raise ValueError(
            "`lr_scheduler_type` must be 'constant' and `steps_per_generation` 1, got "
            f"{config.lr_scheduler_type} and {config.steps_per_generation}. The number of steps is not known."
        )
    model, tokenizer = load_policy(model_args, config)
    rows, eval_rows = load_rows(data_args, model, tokenizer, config)
    reward_funcs = make_rewards(reward_args.rewards)
    evaluator = make_evaluator(tokenizer, eval_rows, copy.deepcopy(reward_funcs), model_args, eval_args, config)
    given = {"model": model, "reward_funcs": reward_funcs, "train_dataset": rows, "processing_class": tokenizer}
    given["peft_config"] = model_args.peft_config()
    folder.mkdir(parents=True, exist_ok=True)
    watch = Marks(marks, evaluator, folder)
    trainer = make_trainer(name, given | {"callbacks": [watch]}, config)
    watch.watch(trainer)
    trainer.train()
    (folder / "marks.json").write_text(json.dumps(watch.found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
