"""RLOO with the credit assignment left open. It listens at TRL's seams, which test_trl_contract.py checks."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from accelerate.utils import is_peft_model
from torch import Tensor
from transformers import PreTrainedModel, ProgressCallback

from lmrl.models import (
    ScoredCompletions,
    add_scoring_forward,
    check_scoring_forward,
    decoding_weights,
    disable_dropout,
    fuse_activations,
    load_model,
    load_tokenizer,
    neutral_generation_config,
)

from . import startup
from .adapters import adapter_weights, settle_adapters, share_base
from .callbacks import LogFile, TrainingProgress
from .configs import PolicyGradientConfig
from .engines import push_policy_only
from .guards import GuardedTrainer
from .reference import control_kl, make_reference
from .scoring import RewardError, checked_rewards, raise_together

Rollout = dict[str, Tensor]


class PolicyGradientTrainer(GuardedTrainer):
    """
    The part that REINFORCE and PPO share: from prompts to scored completions, from advantages to a step.

    A subclass defines how a scored rollout becomes advantages ([`~PolicyGradientTrainer.credit`]) and these a loss
    ([`~PolicyGradientTrainer.loss`]). Credit is assigned as soon as the log-probabilities are known. Where a rollout
    is used for one update in one batch, that is in the training pass itself: its log-probabilities are those of the
    policy that sampled, so that no second pass is needed. Else it is at the end of the rollout.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            Policy. The reference is a frozen copy of it as given; with LoRA it is the model without the new adapter.
            `args.reference_model_name_or_path` names another.
        reward_funcs (`Callable` or `list[Callable]`):
            Functions of `prompts`, `completions` and the dataset's columns.
        args ([`ReinforceConfig`] or [`PPOConfig`]):
            Configuration.
        train_dataset ([`~datasets.Dataset`]):
            Rows with a `"prompt"` and the columns that the rewards read.
        held_out_metrics (`Callable`, *optional*):
            What [`~transformers.Trainer.evaluate`] measures: a function of the policy that returns metrics by name,
            which become `eval_<name>` for `metric_for_best_model` and early stopping. By default it is the reward of
            sampled completions of `eval_dataset`.
        **kwargs:
            The further arguments of [`~trl.RLOOTrainer`]: `eval_dataset`, `processing_class`, `callbacks`,
            `optimizers`, `quantization_config`, `peft_config`.

    Attributes:
        name (`str`):
            Name of the algorithm, for example `"PPO"`: the report, the model card and the sweep show it.
        citation (`str`, *optional*):
            BibTeX of the algorithm, for the model card.
        reported_settings (`tuple[str, ...]`):
            Fields of the configuration that describe the algorithm in the model card.
    """

    name = "policy gradient"
    citation: str | None = None
    reported_settings: tuple[str, ...] = ("num_iterations", "epsilon", "normalize_advantages")

    @property
    def _name(self) -> str:
        return self.name

    _tag_names = ["trl", "lmrl"]  # noqa: RUF012
    _has_critic = False

    def __init__(
        self,
        model: "str | PreTrainedModel",
        reward_funcs: Any,
        args: PolicyGradientConfig,
        train_dataset: Any = None,
        held_out_metrics: Callable[[PreTrainedModel], dict[str, float]] | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(model, str):
            options = dict(args.model_init_kwargs or {})
            if kwargs.get("processing_class") is None:
                kwargs["processing_class"] = load_tokenizer(model, revision=options.get("revision", "main"))
            model = load_model(model, **options)
        rewards = checked_rewards(reward_funcs)
        startup.check_columns(rewards, train_dataset, kwargs.get("eval_dataset"))
        # TRL would load the reference from disk again. Ours is a copy of the policy as it was given.
        self.held_out_metrics = held_out_metrics
        given = adapter_weights(model)
        wanted = args.beta, args.sync_ref_model
        args.beta, args.sync_ref_model = 0.0, False
        try:
            super().__init__(model, list(rewards), args, train_dataset, **kwargs)
        finally:
            args.beta, args.sync_ref_model = wanted
        settle_adapters(self.model, given)
        self.beta = args.beta
        if args.disable_dropout:
            disable_dropout(self.model)
        fuse_activations(self.model)
        self.ref_model = make_reference(self)
        add_scoring_forward(self._base_model, self.temperature)
        with self.gathered_policy():
            check_scoring_forward(self._base_model, self.temperature)
        if self.use_vllm:
            push_policy_only(self.vllm_generation)
        share_base(self, (reward.reward_func for reward in rewards))
        startup.check_context(self)
        self.add_callback(LogFile())
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(TrainingProgress)

    # -- what a subclass answers -------------------------------------------------------------------------------------

    def credit(self, rollout: Rollout) -> Rollout:
        """
        Returns what the loss needs of a scored rollout, at least `advantages`.

        Args:
            rollout (`dict[str, torch.Tensor]`):
                The local completions in the order of generation: `rewards` (B,) with NaN where no reward applies,
                `completion_mask`, `old_per_token_logps` and, if there are a reference and a critic,
                `ref_per_token_logps` and `old_values`, all (B, T).

        Returns:
            `dict[str, torch.Tensor]`: `advantages`, (B,) or (B, T), and anything else, all with B rows.
        """
        raise NotImplementedError

    def loss(self, scored: ScoredCompletions, rollout: Rollout) -> Tensor:
        """
        Returns the scalar loss of a batch, on a scale that does not depend on how a rollout is cut into batches.

        Args:
            scored ([`ScoredCompletions`]):
                The policy's forward, with gradient.
            rollout (`dict[str, torch.Tensor]`):
                Rows of the rollout with their credit. Never write to it: it is served again.
        """
        raise NotImplementedError

    # -- the rollout -------------------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Rollout:
        self._passes: list[ScoredCompletions | None] = []
        rollout = super()._generate_and_score_completions(inputs)
        del rollout["old_logps"], rollout["advantages"]
        rollout |= self._rewards(rollout) | self._lengths(rollout)
        policy, reference = (*self._passes, None)[:2]
        if reference is not None:
            rollout["ref_per_token_logps"] = reference.log_probs
        if self._is_first_rollout:
            self._on_first_rewards(rollout["rewards"])
        if policy is None:
            rollout["index"] = torch.arange(len(inputs), device=self.accelerator.device)
        else:
            rollout |= self._as_old(policy)
            rollout |= self._assign_credit(rollout)
        if self._is_first_rollout:
            startup.check_rollout(self, rollout)
        return rollout

    def _on_first_rewards(self, rewards: Tensor) -> None:
        """Called once, when the first rewards are known and before any credit is assigned."""

    @property
    def _is_first_rollout(self) -> bool:
        return self.model.training and self._step == 0 and self.state.global_step == 0

    @property
    def _credit_in_training_pass(self) -> bool:
        return not self.model.training or (self.num_iterations == 1 and self.args.steps_per_generation == 1)

    @property
    def _base_model(self) -> PreTrainedModel:
        model = self.accelerator.unwrap_model(self.model)
        return model.get_base_model() if is_peft_model(model) else model

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> list[list[int]]:
        with self._clock("generation"), self._decoding():
            return super()._generate_single_turn(*args, **kwargs)

    @contextmanager
    def _decoding(self) -> Iterator[None]:
        with ExitStack() as stack:
            if self.use_vllm:  # decodes with weights of its own
                pass
            elif self.is_fsdp_enabled:  # TRL sees to ZeRO-3
                stack.enter_context(self.gathered_policy())
            elif self.args.bf16 and not self._dist.is_zero3 and not hasattr(self._base_model, "hf_device_map"):
                stack.enter_context(decoding_weights(self._base_model, torch.bfloat16))
            stack.enter_context(neutral_generation_config(self._base_model))
            yield

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, batch_size: int, **_: Any
    ) -> tuple[Tensor, None, None]:
        """TRL asks for the policy first, then for the reference."""
        of_policy = not self._passes
        if of_policy and self._credit_in_training_pass:
            self._passes.append(None)
            return input_ids.new_zeros(len(input_ids), logits_to_keep, dtype=torch.float32), None, None
        with self._clock("scoring"):
            parts = [
                self._forward(model, ids, mask, logits_to_keep, with_values=of_policy and self._has_critic)
                for ids, mask in zip(input_ids.split(batch_size), attention_mask.split(batch_size), strict=True)
            ]
        names = [name for name in ("log_probs", "entropy", "state_values") if name in parts[0]]
        whole = ScoredCompletions(**{name: torch.cat([part[name] for part in parts]) for name in names})
        self._passes.append(whole)
        return whole.log_probs, None, None

    def _forward(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, completion_length: int, with_values: bool
    ) -> ScoredCompletions:
        with self.accelerator.autocast():
            return model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                completion_length=completion_length,
                with_values=with_values,
            )

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        learned = self._reward_states()
        try:
            with self._clock("reward"):
                self._rewards_per_func = super()._calculate_rewards(*args, **kwargs)
            raise_together(self.reward_funcs, self.accelerator)
        except RewardError:
            self._load_reward_states(learned)  # what is kept of this run will score these prompts again
            raise
        return self._rewards_per_func

    def _rewards(self, rollout: Rollout) -> Rollout:
        """The reward of each local completion, and the mask without those that no reward applies to."""
        mask = rollout["completion_mask"]
        rewards = self._local(self._total_rewards(self._rewards_per_func))
        is_eos = torch.isin(rollout["completion_ids"], torch.tensor(self.eos_token_ids, device=mask.device))
        finished = (is_eos & mask.bool()).any(dim=1)
        if self.args.missing_eos_penalty is not None:
            rewards = rewards - self.args.missing_eos_penalty * (~finished)
        self._log_rewards(rewards)
        return {"rewards": rewards, "completion_mask": mask * (~rewards.isnan()).unsqueeze(1)}

    def _total_rewards(self, per_func: Tensor) -> Tensor:
        """(N, functions) -> (N,), over all processes: the weighted sum, clipped if configured, NaN if none applies."""
        rewards = (per_func * self.reward_weights.to(per_func.device)).nansum(dim=1)
        if self.reward_clip_range:
            rewards = rewards.clamp(*self.reward_clip_range)
        return torch.where(per_func.isnan().all(dim=1), torch.nan, rewards)

    def _local(self, gathered: Tensor) -> Tensor:
        """The rows of this process out of those of all."""
        return gathered.chunk(self.accelerator.num_processes)[self.accelerator.process_index]

    def _lengths(self, rollout: Rollout) -> Rollout:
        """The mean length over all processes: every batch of the rollout averages over the same count."""
        lengths = self.accelerator.gather(rollout["completion_mask"].sum(dim=1)).float()
        self._count_completions(len(lengths), int(lengths.sum()))
        return {"mean_length": lengths.mean().clamp(min=1).expand(len(rollout["completion_ids"]))}

    def _as_old(self, scored: ScoredCompletions) -> Rollout:
        old = {"old_per_token_logps": scored.log_probs.detach()}
        return old if scored.state_values is None else {**old, "old_values": scored.state_values.detach()}

    def _assign_credit(self, rollout: Rollout) -> Rollout:
        kl = self._log_kl(rollout)
        self._check_finite("the KL to the reference", kl)
        credit = {name: value.nan_to_num(0.0) for name, value in self.credit(rollout).items()}
        self._log_advantages(credit["advantages"], rollout["completion_mask"])
        if kl is not None and self.model.training:
            control_kl(self, kl)
        return credit

    # -- the step ----------------------------------------------------------------------------------------------------

    def _compute_loss(self, model: Any, inputs: Rollout) -> Tensor:
        if "index" in inputs:  # TRL shuffles; credit looks at the completions of a prompt side by side
            order = inputs["index"].argsort()
            inputs = {name: value[order] for name, value in inputs.items()}
        scored = self._forward(
            model,
            torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1),
            torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1),
            inputs["completion_ids"].shape[1],
            with_values=self._has_critic,
        )
        if "advantages" not in inputs:
            inputs = inputs | self._as_old(scored)
            inputs = inputs | self._assign_credit(inputs)
        entropy = self._log_mean("entropy", scored.entropy, inputs["completion_mask"])
        self._check_finite("the entropy", entropy.item())
        return self.loss(scored, inputs)
