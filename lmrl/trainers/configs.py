"""Configurations of the trainers: TRL's RLOOConfig, the fields that lmrl adds to it, and the values it refuses."""

import copy
import os
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from accelerate.utils import get_int_from_env
from transformers import get_scheduler
from transformers.trainer_pt_utils import AcceleratorConfig
from trl import RLOOConfig

from lmrl.settings import Settings, check_length, check_unread, known_direction, lora_learning_rate, without_secrets
from lmrl.utils import check_above, check_at_least, check_literals, is_picklable, name_of, option, refuse

_DISTRIBUTION = (
    "Another value changes the distribution that is sampled from, and the policy gradient needs the log-probabilities "
    "of just that distribution, while the loss has those of the model. Leave it out."
)
# Arguments of TRL and transformers: the values that are allowed in training, and why others are not.
ALLOWED: dict[str, tuple[tuple[Any, ...], str]] = {
    "top_k": ((0, None), _DISTRIBUTION),
    "top_p": ((1.0,), _DISTRIBUTION),
    "min_p": ((None, 0.0), _DISTRIBUTION),
    "repetition_penalty": ((1.0,), _DISTRIBUTION),
    "vllm_structured_outputs_regex": ((None,), _DISTRIBUTION),
    "neftune_noise_alpha": ((None, 0.0), "Its noise is not there in sampling: another policy would be trained."),
    "label_smoothing_factor": ((0.0,), "There are no labels to smooth: the completions are sampled."),
    "train_sampling_strategy": (("random",), "The order of the prompts is `shuffle_dataset`."),
    "data_seed": ((None,), "The order of the prompts follows `seed`."),
    "auto_find_batch_size": ((False,), "It could part the completions of a prompt: lower the batch size yourself."),
    "bf16_full_eval": ((False,), "It rounds the weights for good, and training would go on from those."),
    "fp16_full_eval": ((False,), "It rounds the weights for good, and training would go on from those."),
    "use_liger_kernel": ((False,), "Kernels of the Hub are `model_init_kwargs={'use_kernels': True}`."),
    "enable_jit_checkpoint": ((False,), "A run is saved on SIGTERM anyway."),
}

# Options of `generate` that change no distribution, whatever their value; vLLM has none of them.
NEUTRAL_GENERATION_KWARGS = {"use_cache", "cache_implementation", "prefill_chunk_size"}


@dataclass
class PolicyGradientConfig(RLOOConfig, Settings):
    """The fields that all trainers share. All of [`~trl.RLOOConfig`] and of [`TrainingArguments`] is there too."""

    full_learning_rate: ClassVar[float] = 1e-5  # the default for all weights

    learning_rate: float | None = option(
        None, "Peak learning rate (1e-5, with LoRA 1e-4). Of the policy, for AdamW; those are the defaults."
    )
    gradient_checkpointing: bool = option(
        False, "Recompute activations in the backward pass. Less memory, about a fifth slower."
    )
    disable_dropout: bool = option(
        True, "Turn dropout off. On, the policy that is trained is not the one that was sampled."
    )
    logging_steps: float = option(1, "Log every so many optimizer steps.")
    reference_model_name_or_path: str | None = option(
        None,
        "Model that the KL is measured to. The one that a first training started from, or a teacher with the same "
        "tokenizer. By default the policy as it is given, so that each training has a new reference.",
    )
    visible_tokens: list[str] | None = option(
        None,
        "Special tokens that rewards read, as <row>. The evaluation reads them in completions too, and so does who "
        "decodes with the saved tokenizer. By default texts have no special tokens.",
    )
    missing_eos_penalty: float | None = option(
        None, "Penalty of a completion that does not end. Subtracted where max_completion_length cut it."
    )
    kl_estimator: Literal["k1", "exact"] = option(
        "k1",
        "KL of a token. k1: the log-ratio of the token that was drawn. exact: the KL over the vocabulary of what "
        "follows it, which has less noise and costs a pass of the policy. With kl_scope=token the baseline of k1.",
    )
    kl_target: float | None = option(
        None,
        "KL per completion to steer to, in nats. The coefficient then adapts, starting from beta (Ziegler et al., "
        "2019). Fixed at beta by default.",
    )
    kl_horizon: float = option(10_000.0, "Completions in which beta would adapt in full.")
    max_kl: float | None = option(None, "Stop above this KL per completion, in nats.")
    target_kl: float | None = option(
        None,
        "KL per token that the updates of a rollout may go from it, in nats. Those after 1.5 times that are left out, "
        "as in Stable-Baselines3.",
    )
    kl_scope: Literal["completion", "token"] = option(
        "completion",
        "Tokens that the KL penalty of a token counts for. completion: it and all before it, as a part of the reward. "
        "token: it alone, as in on-policy distillation from a teacher.",
    )
    resume_from_checkpoint: str | None = option(
        None,
        "Checkpoint to go on from. Its folder; `true` for the newest complete one in output_dir; `latest` for the "
        "same, or a start from the beginning where there is none.",
    )
    scoring_pass: Literal["auto", "shared", "plain"] = option(
        "auto", "Pass over completions. shared computes what several begin with once, auto does on a CPU, plain never."
    )
    use_cuda_graphs: bool = option(
        True, "Decode by CUDA graphs where that is possible. Each token is then one launch."
    )
    vllm_importance_sampling_correction: bool | None = option(
        None,
        "Weigh by the ratio of the policy to the one that sampled. By default where vLLM or continuous batching does.",
    )
    vllm_importance_sampling_mode: Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"] = (
        option("sequence_truncate", "Ratio of a sequence or of a token, truncated at its bounds or 0 beyond them.")
    )
    vllm_importance_sampling_clip_max: float | None = option(3.0, "Upper bound of that ratio.")
    vllm_importance_sampling_clip_min: float | None = option(None, "Lower bound of that ratio.")
    startup_checks: bool = option(
        True,
        "Check the first rollout before the first update. That the ratio is 1, the KL 0, and that rewards differ. "
        "Turn off for a control run with a constant reward.",
    )
    rollouts_to_save: int = option(4, "Prompts per logged step whose completions rollouts.jsonl gets. 0 saves none.")

    def __post_init__(self) -> None:
        for name in ("num_generations", "num_iterations", "max_completion_length", "per_device_train_batch_size"):
            if getattr(self, name) is None:
                raise ValueError(f"`{name}` must be a number, got None. Leave it out for the default.")
            check_at_least(1, **{name: getattr(self, name)})
        check_at_least(0, beta=self.beta, epsilon=self.epsilon, epsilon_high=self.epsilon_high)
        check_at_least(0, learning_rate=self.learning_rate, rollouts_to_save=self.rollouts_to_save)
        for name, (allowed, reason) in ALLOWED.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}` must be {allowed[0]!r} in training, got {getattr(self, name)!r}. {reason}")
        check_literals(self)
        check_length(self)
        self._check_importance()
        self._check_batches()
        self._choose_by_device()
        self.given_greater_is_better = self.greater_is_better  # transformers fills it in by the metric's name
        self.greater_is_better = known_direction(self.metric_for_best_model, self.greater_is_better)
        given_rate = self.learning_rate
        # DeepSpeed's configuration, made by TrainingArguments below, copies the learning rate.
        self.learning_rate = self.full_learning_rate if given_rate is None else given_rate
        try:
            super().__post_init__()
        except ValueError as error:  # the last of RLOO's checks, which its leave-one-out needs and others do not
            if self.num_generations != 1 or "at least 2 generations" not in str(error):
                raise
        self.learning_rate = given_rate
        self._check_sampling_and_rewards()
        self._check_kl()
        self._check_schedule()

    def choose_learning_rates(self, has_lora: bool) -> None:
        """Sets a learning rate that is None. A trainer calls it on its copy, as it knows whether LoRA is trained."""
        if self.learning_rate is None:
            full = self.full_learning_rate
            self.learning_rate = lora_learning_rate(self, full) if has_lora else full

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Returns a copy that a trainer may write to, as TRL and Trainer do to their configurations."""
        copied = object.__new__(type(self))
        for name, value in vars(self).items():
            # An object that configures an engine is not copied: transformers has a weak reference to it.
            is_plain = isinstance(value, dict | list | AcceleratorConfig)
            setattr(copied, name, copy.deepcopy(value, memo) if is_plain else value)
        return copied

    def __copy__(self) -> Self:
        """Returns a copy; fields that are functions are the same objects in it."""
        return copy.deepcopy(self)

    def __getstate__(self) -> dict[str, Any]:
        """Returns what Trainer pickles beside each model: no secrets, and names of functions that do not pickle."""
        return {n: without_secrets(v, n) if is_picklable(v) else name_of(v) for n, v in vars(self).items()}

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields for reports and trackers: without secrets, and with names in place of functions."""
        return {n: name_of(v) if callable(v) else without_secrets(v) for n, v in super().to_dict().items()}

    def _choose_by_device(self) -> None:
        """Sets bfloat16, TRL's default everywhere, only where a GPU supports it, and the CPU where there is no GPU."""
        on_gpu = torch.cuda.is_available() and not self.use_cpu
        if self.bf16 is None:
            self.bf16 = not self.fp16 and on_gpu and torch.cuda.is_bf16_supported()
        if not torch.accelerator.is_available():
            self.use_cpu = True
            os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed finds no other either, but warns

    def _check_batches(self) -> None:
        """Checks that a rollout has all completions of its prompts, before TRL does with a message of its own."""
        processes = get_int_from_env(("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"), 1)
        size = self.per_device_train_batch_size
        batch = size * processes
        steps = self.steps_per_generation
        given = self.generation_batch_size
        rollout = given or batch * (steps or self.gradient_accumulation_steps)
        group = self.num_generations
        eval_group = self.num_generations_eval or group
        eval_batch = self.per_device_eval_batch_size * processes
        is_apart = self.eval_strategy != "no" and eval_batch % eval_group != 0
        rule = "completions of a rollout, got"
        remedy = "A rollout has all completions of its prompts: change it, or the batch size per device."
        refuse(
            {
                f"`generation_batch_size` must be None with steps_per_generation={steps}, got {given}. Each gives the "
                "other: leave one out.": given is not None and steps is not None,
                f"`num_generations` must divide the {rollout} {rule} {group}. {remedy}": rollout % group,
                f"`num_generations_eval` must divide the {eval_batch} {rule} {eval_group}. {remedy}": is_apart,
                f"`generation_batch_size` must be a multiple of {batch}, got {rollout}. A rollout is cut into batches "
                f"of per_device_train_batch_size={size} on {processes} processes.": rollout % batch,
            }
        )

    def _check_sampling_and_rewards(self) -> None:
        check_above(0, temperature=self.temperature)
        match self.reward_clip_range:
            case None:
                pass
            case [int() | float() as low, int() | float() as high] if low < high:
                pass
            case wrong:
                raise ValueError(f"`reward_clip_range` must be two numbers, the lower one first, got {wrong}.")
        allowed = set() if self.use_vllm else NEUTRAL_GENERATION_KWARGS
        for name in set(self.generation_kwargs or {}) - allowed:
            raise ValueError(
                f"`generation_kwargs` must have no options but {sorted(allowed)}, got {name!r}. It may change the "
                "distribution that is sampled from or when a completion ends, and the log-probabilities trained on "
                "would not follow. The length is max_completion_length, the temperature is temperature."
            )

    @property
    def corrects_for_sampler(self) -> bool:
        """Whether advantages are weighed by an importance ratio: by default where another engine samples."""
        given = self.vllm_importance_sampling_correction
        by_other_engine = self.use_vllm or self.use_transformers_continuous_batching or self.use_transformers_paged
        return bool(by_other_engine if given is None else given)

    def _check_importance(self) -> None:
        low = self.vllm_importance_sampling_clip_min
        high = self.vllm_importance_sampling_clip_max
        check_above(0, vllm_importance_sampling_clip_max=high)
        check_at_least(0, vllm_importance_sampling_clip_min=low)
        if not self.corrects_for_sampler:
            names = [f"vllm_importance_sampling_{name}" for name in ("mode", "clip_max", "clip_min")]
            check_unread(self, names, "vllm_importance_sampling_correction")
        if low is not None and high is not None and low >= high:
            raise ValueError(
                f"`vllm_importance_sampling_clip_min` must be below vllm_importance_sampling_clip_max={high:g}, got "
                f"{low:g}. They are the bounds of a ratio that is 1 where the policies are the same."
            )

    def _check_kl(self) -> None:
        check_above(0, kl_target=self.kl_target, max_kl=self.max_kl, target_kl=self.target_kl)
        if self.beta == 0:
            check_unread(self, ["kl_estimator", "kl_scope"], "beta above 0")
        serves_one = self.num_iterations == 1 and self.steps_per_generation == self.gradient_accumulation_steps
        refuse(
            {
                f"`target_kl` must be None where a rollout serves one update, got {self.target_kl}. The policy is "
                "still the one that sampled: raise `num_iterations`; `kl_target` and `max_kl` are about the KL to the "
                "reference.": self.target_kl is not None and serves_one,
                f"`target_kl` must be None with fp16, got {self.target_kl}. Its scaler needs the gradients that are "
                "left out: take bf16.": self.target_kl is not None and self.fp16,
            }
        )
        for name in ("sync_ref_model", "reference_model_name_or_path", "kl_target", "max_kl"):
            value = getattr(self, name)
            if value and self.beta == 0:
                raise ValueError(
                    f"`{name}` must be {False if value is True else None} with beta=0, got {value!r}. It is only read "
                    "with beta above 0: without beta no reference is run, and there is no KL."
                )
        if self.kl_target is None:
            check_unread(self, ["kl_horizon"], "kl_target")
        if not self.sync_ref_model:
            check_unread(self, ["ref_model_mixup_alpha", "ref_model_sync_steps"], "sync_ref_model")
        shortest = self.generation_batch_size / 5  # the controller's error is at most a fifth
        if self.kl_target is not None and not self.kl_horizon > shortest:
            raise ValueError(
                f"`kl_horizon` must be above {shortest:g}, got {self.kl_horizon}. With {self.generation_batch_size} "
                "completions a rollout the coefficient could turn negative."
            )

    def _check_schedule(self) -> None:
        """Makes the schedule once, for a dummy weight, so that wrong options fail now, not when training begins."""
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        kind = self.lr_scheduler_type
        options = self.lr_scheduler_kwargs or {}
        try:
            get_scheduler(kind, optimizer, num_warmup_steps=0, num_training_steps=1, scheduler_specific_kwargs=options)
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"`lr_scheduler_kwargs` must be options of lr_scheduler_type={str(kind.value)!r}, got {options} "
                f"({error}). Give it the options of that schedule, and no others."
            ) from error


@dataclass
class PPOConfig(PolicyGradientConfig):
    """Configuration of [`PPOTrainer`]: epochs are `num_iterations`, minibatches are `steps_per_generation`."""

    num_generations: int | None = option(1, "Completions per prompt.")
    num_iterations: int = option(2, "Epochs over each rollout.")
    normalize_advantages: bool = option(True, "Whiten the advantages. Over the rollout's tokens of all processes.")
    critic: Literal["least_squares", "shared", "adapter", "separate"] = option(
        "least_squares",
        "Kind of the critic. least_squares: a regression, fitted for each rollout on the rollouts before it, which "
        "also reads the rewards' progress. shared: a head on the policy's hidden states. adapter: a head on the "
        "policy's base with a LoRA adapter of its own, where the policy has one. separate: a model of its own.",
    )
    critic_model_name_or_path: str | None = option(
        None,
        "What a critic that is trained starts from. The folder of a run with a critic of its kind; or, for a separate "
        "one, a model with the policy's vocabulary, of a reward model with its head, by default the policy itself.",
    )
    critic_learning_rate: float | None = option(
        None,
        "Learning rate of the critic. By default 2e-3 for a shared one, learning_rate else, of a separate one its "
        "default for all weights.",
    )
    critic_warmup_steps: int = option(
        0, "Optimizer steps at the beginning in which the critic alone learns. Of a critic that is trained."
    )
    critic_extra_epochs: int = option(
        0, "More epochs of a shared critic over each rollout. On the states of the rollout, at no pass of the policy."
    )
    gamma: float = option(1.0, "Discount per token, in [0, 1].")
    lam: float = option(0.95, "Lambda of GAE, in [0, 1]. Lower leans on the critic.")
    vf_coef: float = option(0.1, "Weight of the value loss.")
    cliprange_value: float = option(0.2, "How far a value may move in one rollout.")
    critic_forgetting: float = option(
        0.95, "Weight of earlier rollouts in a least_squares critic. A factor in (0, 1], for each rollout since."
    )
    shaping: Literal["progress"] | None = option(
        None, "Rewards of tokens. progress: what each adds to the reward as if the text ended there."
    )
    entropy_coef: float = option(0.0, "Weight of an entropy bonus.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(0, vf_coef=self.vf_coef, critic_learning_rate=self.critic_learning_rate)
        check_at_least(0, critic_warmup_steps=self.critic_warmup_steps, critic_extra_epochs=self.critic_extra_epochs)
        check_above(0, cliprange_value=self.cliprange_value)
        name = self.critic_model_name_or_path
        forgetting = self.critic_forgetting
        warmup = self.critic_warmup_steps
        epochs = self.critic_extra_epochs
        serves_one_update = self.num_iterations == 1 and self.steps_per_generation == 1
        refuse(
            {
                f"`critic_model_name_or_path` must be None with critic='least_squares', got {name!r}. It is the start "
                "of a critic that is trained.": name is not None and self.critic == "least_squares",
                f"`weight_decay` must be 0 with critic_warmup_steps={warmup}, got {self.weight_decay}. It would move "
                "the policy while the critic alone learns: leave one of them out.": warmup and self.weight_decay,
                f"`critic_extra_epochs` must be 0 with critic={self.critic!r}, got {epochs}. The states of a critic "
                "that has an adapter or a backbone change as it learns: take "
                "critic='shared'.": epochs and self.critic in ("adapter", "separate"),
                f"`critic_extra_epochs` must be 0 for a rollout that serves one update, got {epochs}. It is valued in "
                "the pass that is trained on: raise `num_iterations`.": epochs and serves_one_update,
                f"`gamma` must be in [0, 1], got {self.gamma}.": not 0 <= self.gamma <= 1,
                f"`lam` must be in [0, 1], got {self.lam}.": not 0 <= self.lam <= 1,
                f"`critic_forgetting` must be in (0, 1], got {forgetting}.": not 0 < forgetting <= 1,
            }
        )
        if self.critic == "least_squares":
            keys = ("critic_learning_rate", "vf_coef", "cliprange_value", "critic_warmup_steps", "critic_extra_epochs")
            check_unread(self, keys, "critic='least_squares'", "with")
            return
        check_unread(self, ["critic_forgetting"], "critic='least_squares'")

    def choose_learning_rates(self, has_lora: bool) -> None:
        """Also sets the rate of a critic that is trained. A separate one trains all its weights, also beside LoRA."""
        full = self.full_learning_rate if self.learning_rate is None else self.learning_rate
        super().choose_learning_rates(has_lora)
        if self.critic_learning_rate is None and self.critic != "least_squares":
            rates = {"shared": 2e-3, "adapter": self.learning_rate, "separate": full}
            self.critic_learning_rate = rates[self.critic]
