"""Real trainers on the tiny models, for the tests that train."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from lmrl.trainers import (
    PolicyGradientTrainer,
    PPOConfig,
    PPOTrainer,
    ReinforceConfig,
    ReinforceTrainer,
    Rollout,
)

ALGORITHMS = ("reinforce", "ppo")
LEARNED: dict[str, dict[str, Any]] = {"reinforce": {}, "ppo": {"critic": "shared"}}  # with a critic that is trained
PASSES = ("auto", "plain")  # over the completions of a batch

PROMPTS = ["a b c d", "e", "f g", "h i j k l m n", "o p q", "r", "s t u v", "w x"]  # of different lengths


def share_of_a(completions: list[str], **_: Any) -> list[float]:
    """Returns the share of the words of each completion that are `a`, 0 for an empty one."""
    return [text.split().count("a") / max(len(text.split()), 1) for text in completions]


def share_of_letters(completions: list[str], **_: Any) -> list[float]:
    """Returns the share of the characters that are letters, which a random model varies."""
    return [sum(character.isalpha() for character in text) / max(len(text), 1) for text in completions]


def make_trainer(
    algorithm: str, model: Any, folder: Path, reward: Callable[..., Any] = share_of_letters, **overrides: Any
) -> PolicyGradientTrainer:
    """Returns a trainer of 8 completions a rollout, 2 a prompt, on a CPU in float32."""
    trainer_class, config_class = {
        "reinforce": (ReinforceTrainer, ReinforceConfig),
        "ppo": (PPOTrainer, PPOConfig),
    }[algorithm]
    own = ("peft_config", "callbacks", "eval_dataset", "held_out_metrics", "processing_class")
    rest = {name: overrides.pop(name) for name in own if name in overrides}
    dataset = overrides.pop("train_dataset", None)
    on_config = overrides.pop("on_config", None)
    defaults: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "num_generations": 2,
        "max_completion_length": 8,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "beta": 0.05,
        "max_steps": 2,
    }
    config = config_class(**{**defaults, **overrides})
    if on_config is not None:
        on_config(config)
    trainer = trainer_class(
        model,
        reward,
        config,
        Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS]) if dataset is None else dataset,
        **rest,
    )
    trainer.model.train()
    return trainer


def one_rollout(trainer: PolicyGradientTrainer) -> Rollout:
    """Returns the first rollout, generated and scored, in the order of generation."""
    rows = next(iter(trainer.get_train_dataloader()))
    return Rollout.from_dict(trainer._generate_and_score_completions(rows))


def loss_of(trainer: PolicyGradientTrainer, rollout: Rollout) -> torch.Tensor:
    """Returns the loss of a rollout, or of some of its rows, with its graph."""
    return trainer._compute_loss(trainer.model, rollout.to_dict())


def gradients(trainer: PolicyGradientTrainer) -> dict[str, torch.Tensor]:
    """Returns a copy of the gradients by parameter name."""
    named = trainer.model.named_parameters()
    return {name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None}
