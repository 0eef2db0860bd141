"""Runs that are stopped and resumed, as the tests of resuming start them in processes of their own."""

import os
import random
import resource
import runpy
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from training import PROMPTS, make_trainer, share_of_a, share_of_letters
from transformers import TrainerCallback

from lmrl import sigterm
from lmrl.rewards import Length, Normalized, Weighted
from lmrl.saving import SaveError
from lmrl.trainers import PolicyGradientTrainer

# A checkpoint at step 2 is within an epoch of 3 steps; with PPO it is within a rollout of 4, with a loss not logged.
RUNS: dict[str, dict[str, Any]] = {
    "reinforce": {"baseline": "moving_average", "max_steps": 4},
    "ppo": {
        "kl_target": 0.5,
        "kl_horizon": 20.0,
        "num_iterations": 2,
        "steps_per_generation": 2,
        "per_device_train_batch_size": 4,
        "logging_steps": 3,
        "max_steps": 6,
    },
}
SPENT = ("runtime", "second", "time", "train_loss")  # of the clock, or of this call of train alone


class Killed(TrainerCallback):
    """SIGKILL as soon as the first checkpoint is there."""

    def on_save(self, *_: Any, **__: Any) -> None:
        """Called when it is complete."""
        os.kill(os.getpid(), signal.SIGKILL)


def trainer_of(
    algorithm: str, lora: bool, model: str, folder: Path, processes: int, **overrides: Any
) -> PolicyGradientTrainer:
    """Returns a trainer that saves every second step."""
    options = {"per_device_train_batch_size": 8, "save_strategy": "steps", "save_steps": 2, **RUNS[algorithm]}
    options |= {"lr_scheduler_type": "linear", "weight_decay": 0.1, **overrides}
    options["per_device_train_batch_size"] //= processes
    if lora:
        options["peft_config"] = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
        # A reference that follows: the adapter's copy `ref`, a parameter of the policy.
        options |= {"sync_ref_model": True, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 0.25}
    rewards = [Weighted({Normalized(share_of_letters): 1.0, Length(4): 0.5}, name="sum"), share_of_a]
    rows = Dataset.from_list([{"prompt": prompt} for prompt in [*PROMPTS, "y z", "z y x", "a a", "b b c"]])
    return make_trainer(algorithm, model, folder, **{"reward": rewards, "train_dataset": rows, **options})


def everything(trainer: PolicyGradientTrainer) -> dict[str, Any]:
    """Returns all that two runs must have in common."""
    state = trainer.state
    return {
        "parameters": dict(trainer.accelerator.unwrap_model(trainer.model).named_parameters()),
        "optimizer": trainer.optimizer.state_dict(),
        "scheduler": trainer.lr_scheduler.state_dict(),
        "random": [torch.get_rng_state(), random.getstate(), np.random.get_state()],
        "own": trainer.run_state_dict(),
        "counts": [state.global_step, state.epoch, state.num_input_tokens_seen, state.total_flos],
        "log": [
            {name: value for name, value in row.items() if not any(word in name for word in SPENT)}
            for row in state.log_history
        ],
    }


def differences(one: Any, other: Any, name: str = "") -> list[str]:
    """Returns the names of the values that differ in a single bit."""
    if isinstance(one, dict):
        keys = [] if one.keys() == other.keys() else [f"{name}: {sorted(map(str, one.keys() ^ other.keys()))}"]
        return keys + [d for k in one.keys() & other.keys() for d in differences(one[k], other[k], f"{name}.{k}")]
    if isinstance(one, list | tuple):
        length = [] if len(one) == len(other) else [f"{name}: {len(one)} and {len(other)}"]
        return length + [
            d for n, (a, b) in enumerate(zip(one, other, strict=False)) for d in differences(a, b, f"{name}.{n}")
        ]
    if isinstance(one, torch.Tensor):
        same = (
            one.shape == other.shape
            and one.dtype == other.dtype
            and bool((one == other).all() | (one.isnan() & other.isnan()).all())
        )
    else:
        same = bool(np.all(one == other)) or (one != one and other != other)
    return [] if same else [f"{name}: {one} and {other}"]


def train(
    algorithm: str, lora: bool, model: str, folder: Path, processes: int, mode: str, options: dict[str, Any]
) -> None:
    """Train `straight`, or until `killed`, or `resumed`; at the end writes down everything, each process its own."""
    callbacks = [Killed()] if mode == "killed" else []
    output = folder / ("straight" if mode == "straight" else "stopped")
    torch.manual_seed({"straight": 0, "killed": 0, "resumed": 1}[mode])
    trainer = trainer_of(algorithm, lora, model, output, processes, callbacks=callbacks, **options)
    trainer.train(resume_from_checkpoint="latest" if mode == "resumed" else None)
    torch.save(everything(trainer), folder / f"{mode}-{trainer.accelerator.process_index}.pt")


class SendsSigterm(TrainerCallback):
    """SIGTERM to the last of the processes, in the second step."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called before the step."""
        if state.global_step == 1 and args.process_index == args.world_size - 1:
            os.kill(os.getpid(), signal.SIGTERM)


def train_until_sigterm(model: str, folder: Path, processes: int) -> None:
    """Train with no checkpoints at all until SIGTERM; what the signal does afterwards is printed."""
    options = {"save_strategy": "no", "callbacks": [SendsSigterm()]}
    trainer = trainer_of("reinforce", False, model, folder / "stopped", processes, **options)
    try:
        trainer.train(resume_from_checkpoint="latest")
    finally:
        print("handler afterwards:", signal.getsignal(signal.SIGTERM).name)


def train_until_second_sigterm(model: str, folder: Path) -> None:
    """Get SIGTERM, and get it again in the same step, which would take for ever."""
    sigterm.SIGNAL_DEBOUNCE_SECONDS = 0.0

    def endless(completions: list[str], **_: Any) -> list[float]:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        return endless(completions)

    make_trainer("reinforce", model, folder, reward=endless).train()


class Fills(TrainerCallback):
    """Lets files have no more than so many bytes once there is a checkpoint, as a disk that fills up would."""

    def __init__(self, most: int) -> None:
        self.most = most

    def on_save(self, *_: Any, **__: Any) -> None:
        """Called after the first checkpoint."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.most, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def train_until_full(model: str, folder: Path, processes: int, most: int) -> None:
    """Train until a checkpoint cannot be written, and print the sentence."""
    trainer = trainer_of("reinforce", False, model, folder / "run", processes, callbacks=[Fills(most)])
    try:
        trainer.train()
    except SaveError as error:
        print("error:", error)
        sys.exit(7)


def recipe(path: Path, argv: list[str]) -> None:
    """Run a recipe as its command line does."""
    sys.argv = [str(path), *argv]
    runpy.run_path(str(path), run_name="__main__")
