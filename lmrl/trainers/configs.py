"""Configurations of the trainers: TRL's RLOOConfig, what lmrl adds to it, and what it must refuse."""

import os
from dataclasses import dataclass, field
from typing import Literal

import torch
from transformers import get_scheduler
from trl import RLOOConfig

BASELINES = ("none", "batch_mean", "leave_one_out", "moving_average", "greedy")
CRITICS = ("shared", "adapter", "separate")

# `generate` options that leave the distribution sampled from as it is
_HARMLESS = {"use_cache", "cache_implementation", "prefill_chunk_size"}


def _check_at_least(least: float, config: object, *names: str) -> None:
    """Refuse values below the least, and NaN; None is no value."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not value >= least:
            raise ValueError(f"{name} is {value}, and must be at least {least}.")


@dataclass
class PolicyGradientConfig(RLOOConfig):
    """
    What both trainers share. All of [`~trl.RLOOConfig`] and [`~transformers.TrainingArguments`] is there too; `beta`
    is the coefficient of the KL penalty, subtracted from the reward.
    """

    learning_rate: float = field(default=1e-5, metadata={"help": "Peak learning rate of the policy, for AdamW."})
    gradient_checkpointing: bool = field(
        default=False,
        metadata={"help": "Recompute activations in the backward pass: less memory, about a fifth slower."},
    )
    disable_dropout: bool = field(
        default=True,
        metadata={"help": "Turn dropout off. On, the policy that is trained is not the one that was sampled."},
    )
    logging_steps: float = field(default=1, metadata={"help": "Log every so many optimiser steps."})
    reference_model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Model that the KL is measured to: the one that a first training started from, or a teacher with "
            "the same tokenizer. By default the policy as it is given, so that each training has a new reference."
        },
    )
    missing_eos_penalty: float | None = field(
        default=None,
        metadata={"help": "Subtracted from the reward of an answer that did not end within max_completion_length."},
    )
    kl_target: float | None = field(
        default=None,
        metadata={
            "help": "KL per completion, in nats, that an adaptive coefficient steers to (Ziegler et al., 2019), "
            "starting from beta. Fixed at beta by default."
        },
    )
    kl_horizon: float = field(
        default=10_000.0, metadata={"help": "Completions in which the adaptive coefficient would correct in full."}
    )
    max_kl: float | None = field(
        default=None, metadata={"help": "Stop training once the mean KL per completion, in nats, passes this."}
    )
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={
            "help": "Checkpoint to go on from: its folder; `true` for the newest whole one in output_dir; `latest` "
            "for the same, or a start from the beginning where there is none."
        },
    )
    startup_checks: bool = field(
        default=True,
        metadata={
            "help": "Before the first update, check that the ratio is 1, the KL 0, and that rewards differ. Turn off "
            "for a control run with a constant reward."
        },
    )

    def __post_init__(self) -> None:
        _check_at_least(1, self, "num_generations", "num_iterations", "max_completion_length")
        _check_at_least(0, self, "beta", "epsilon", "epsilon_high", "learning_rate", "neftune_noise_alpha")
        self._choose_precision()
        try:
            super().__post_init__()
        except ValueError as error:  # the last of RLOO's checks, which its leave-one-out needs and others do not
            if self.num_generations != 1 or "at least 2 generations" not in str(error):
                raise
        self._check_sampling()
        self._check_kl()
        self._check_schedule()
        self._check_clip_range()

    def _choose_precision(self) -> None:
        """TRL's default is bfloat16 wherever it runs. Here it is where there is a GPU made for it."""
        on_gpu = torch.cuda.is_available() and not self.use_cpu
        if self.bf16 is None:
            self.bf16 = not self.fp16 and on_gpu and torch.cuda.is_bf16_supported()
        if not torch.accelerator.is_available():
            self.use_cpu = True
            os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed finds no other either, but warns

    def _check_sampling(self) -> None:
        neutral = {"top_k": (0, None), "top_p": (1.0,), "min_p": (None, 0.0), "repetition_penalty": (1.0,)}
        for name, allowed in neutral.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name}={getattr(self, name)} changes the distribution that is sampled from, and the policy "
                    "gradient needs the log-probabilities of just that distribution, while the loss has those of the "
                    f"model. Leave {name} at {allowed[0]} in training and set it when you evaluate."
                )
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}, and sampling needs one above 0.")
        harmless = set() if self.use_vllm else _HARMLESS  # vLLM knows none of them
        for name in set(self.generation_kwargs or {}) - harmless:
            raise ValueError(
                f"generation_kwargs has {name!r}, which may change the distribution that is sampled from or when an "
                f"answer ends, and the log-probabilities trained on would not know. Allowed: {sorted(harmless)}. The "
                "length is max_completion_length, the temperature is temperature."
            )

    def _check_kl(self) -> None:
        if self.sync_ref_model and self.beta == 0:
            raise ValueError("sync_ref_model=True needs beta above 0: without beta there is no reference to move.")
        if self.reference_model_name_or_path is not None and self.beta == 0:
            raise ValueError(
                f"reference_model_name_or_path={self.reference_model_name_or_path!r} is only read with beta above 0: "
                "without beta no reference is run."
            )
        for name in ("kl_target", "max_kl"):
            value = getattr(self, name)
            if value is not None and (self.beta == 0 or value <= 0):
                raise ValueError(
                    f"{name}={value} needs a value above 0 and beta above 0 (it is {self.beta}): without beta no "
                    "reference policy is run, so there is no KL."
                )
        if self.kl_target is not None and self.kl_horizon <= self.generation_batch_size / 5:
            raise ValueError(
                f"kl_horizon={self.kl_horizon} is too short for {self.generation_batch_size} completions a rollout: "
                f"the coefficient could turn negative. Use more than {self.generation_batch_size / 5:g}."
            )

    def _check_clip_range(self) -> None:
        match self.reward_clip_range:
            case None:
                pass
            case [int() | float() as low, int() | float() as high] if low < high:
                pass
            case wrong:
                raise ValueError(f"reward_clip_range is {wrong}, and must be two numbers, the lower one first.")

    def _check_schedule(self) -> None:
        """Make the schedule once, of a weight that nobody needs: transformers would only when training begins."""
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        kind, options = self.lr_scheduler_type, self.lr_scheduler_kwargs or {}
        try:
            get_scheduler(kind, optimizer, num_warmup_steps=0, num_training_steps=1, scheduler_specific_kwargs=options)
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"lr_scheduler_kwargs={options} is not what lr_scheduler_type={str(kind.value)!r} takes ({error}). "
                "Give it the options of that schedule, and no others."
            ) from error


@dataclass
class ReinforceConfig(PolicyGradientConfig):
    """Configuration of [`ReinforceTrainer`]."""

    num_generations: int | None = field(
        default=4,
        metadata={"help": "Completions per prompt. 1 is allowed with every baseline but leave_one_out."},
    )
    baseline: Literal["none", "batch_mean", "leave_one_out", "moving_average", "greedy"] = field(
        default="leave_one_out",
        metadata={"help": "What is subtracted from the reward. greedy decodes each prompt once more, greedily."},
    )
    baseline_decay: float = field(
        default=0.9, metadata={"help": "Share of the past kept by the moving average at each rollout, in [0, 1)."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.baseline not in BASELINES:
            raise ValueError(f"baseline={self.baseline!r} is not one of {', '.join(BASELINES)}.")
        if self.baseline == "leave_one_out" and self.num_generations == 1:
            raise ValueError(
                f"baseline='leave_one_out' with num_generations={self.num_generations}: the baseline of a completion "
                "is the mean of the others of its prompt, so there must be at least 2. Raise num_generations, or take "
                "baseline='moving_average' or 'greedy'."
            )
        if self.baseline == "greedy" and self.use_vllm:
            raise ValueError("baseline='greedy' is not available with use_vllm=True. Use baseline='leave_one_out'.")
        if not 0 <= self.baseline_decay < 1:
            raise ValueError(f"baseline_decay={self.baseline_decay} is not in [0, 1).")


@dataclass
class PPOConfig(PolicyGradientConfig):
    """
    Configuration of [`PPOTrainer`]. PPO's epochs are `num_iterations`, its minibatches `steps_per_generation`, its
    clip range `epsilon` (and `epsilon_high`).
    """

    num_generations: int | None = field(default=1, metadata={"help": "Completions per prompt."})
    num_iterations: int = field(default=2, metadata={"help": "Epochs over each rollout."})
    normalize_advantages: bool = field(
        default=True, metadata={"help": "Whiten the advantages over the rollout's tokens of all processes."}
    )
    critic: Literal["shared", "adapter", "separate"] = field(
        default="shared",
        metadata={
            "help": "shared: a head on the policy's hidden states. adapter: a head on the policy's base with a LoRA "
            "adapter of the critic's own, where the policy is trained with one. separate: a model of its own."
        },
    )
    critic_model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Where a separate critic starts from, such as a reward model with the policy's vocabulary. The "
            "policy itself by default."
        },
    )
    critic_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Learning rate of the critic. By default 2e-3 for a shared one, learning_rate else."},
    )
    gamma: float = field(default=1.0, metadata={"help": "Discount per token, in [0, 1]."})
    lam: float = field(default=1.0, metadata={"help": "Lambda of GAE, in [0, 1]. Lower leans on the critic."})
    vf_coef: float = field(default=0.1, metadata={"help": "Weight of the value loss."})
    cliprange_value: float = field(default=0.2, metadata={"help": "How far a value may move in one rollout."})
    entropy_coef: float = field(default=0.0, metadata={"help": "Weight of an entropy bonus."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.critic not in CRITICS:
            raise ValueError(f"critic={self.critic!r} is not one of {', '.join(CRITICS)}.")
        if self.critic_model_name_or_path is not None and self.critic != "separate":
            raise ValueError(
                f"critic_model_name_or_path={self.critic_model_name_or_path!r} is only read with critic='separate'."
            )
        _check_at_least(0, self, "vf_coef", "critic_learning_rate")
        if not self.cliprange_value > 0:
            raise ValueError(f"cliprange_value is {self.cliprange_value}, and must be above 0: no value could move.")
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} is not in [0, 1].")
        if self.critic_learning_rate is None:
            self.critic_learning_rate = 2e-3 if self.critic == "shared" else self.learning_rate
