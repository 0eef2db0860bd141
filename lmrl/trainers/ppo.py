"""PPO with a critic, fitted or learned."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lmrl import core
from lmrl.critics import LeastSquaresCritic, get_critic, make_critic, train_on_states
from lmrl.models import ScoredCompletions
from lmrl.utils import refuse

from .base import PolicyGradientTrainer
from .configs import PPOConfig
from .dense_rewards import DenseRewardTrainer
from .rollout import Credit, Rollout


class PPOTrainer(DenseRewardTrainer):
    """
    PPO on tokens: the KL penalty at every token, the reward at the last one, advantages by GAE from a critic.

    The critic (`args.critic`) is a regression that is fitted ([`LeastSquaresCritic`]), or is trained: a head on the
    policy's states, one with a LoRA adapter of its own on the policy's base, or a model of its own.
    From "Proximal Policy Optimization Algorithms" (Schulman et al., 2017, https://huggingface.co/papers/1707.06347),
    on language as in "Fine-Tuning Language Models from Human Preferences" (Ziegler et al., 2019,
    https://huggingface.co/papers/1909.08593). Arguments as for [`PolicyGradientTrainer`], with [`PPOConfig`].
    """

    name = "PPO"
    paper: Mapping[str, str] = {"title": "Proximal Policy Optimization Algorithms", "id": "1707.06347"}
    citation = Path(__file__).with_suffix(".bib").read_text(encoding="utf-8").strip()
    config_class = PPOConfig
    reported_settings = (
        "critic",
        "critic_learning_rate",
        "critic_forgetting",
        "shaping",
        "gamma",
        "lam",
        "vf_coef",
        "cliprange_value",
        "entropy_coef",
        *PolicyGradientTrainer.reported_settings,
    )

    def create_critic(self, policy: PreTrainedModel) -> nn.Module:
        """Returns the critic that the configuration names, or for a fitted one the module that gives it states."""
        args = self.args
        is_sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
        is_reentrant = args.gradient_checkpointing and (args.gradient_checkpointing_kwargs or {}).get("use_reentrant")
        refuse(
            {
                "`critic` must not be 'adapter' with reentrant gradient checkpointing, got 'adapter'. The backward "
                "pass would run the policy's layers again without knowing whose adapter was on: take critic='shared', "
                "turn `gradient_checkpointing` off, or (not under ZeRO-3) set `gradient_checkpointing_kwargs` to "
                "{'use_reentrant': False}.": args.critic == "adapter" and is_reentrant,
                f"`critic_extra_epochs` must be 0 under DeepSpeed and FSDP, got {args.critic_extra_epochs}. Their "
                "weights are shards, or copies that the optimizer overwrites: leave it out, or take critic="
                "'least_squares'.": args.critic_extra_epochs and is_sharded,
            }
        )
        super().create_critic(policy)
        if args.critic == "least_squares":
            embeddings = policy.get_input_embeddings().weight
            used = (args.critic_forgetting, self.num_generations, self.accelerator, embeddings)
            self.fitted = LeastSquaresCritic(*used)
        critic: Any = make_critic(policy, args.critic, args.critic_model_name_or_path, args.disable_dropout)
        if args.critic_extra_epochs:
            critic.gives_states = True
        return critic

    def on_first_rewards(self, rewards: Tensor) -> None:
        """Makes values start at the mean reward of the first rollout, unless the critic has a start of its own."""
        if self.fitted is None:
            mean = torch.nanmean(self.accelerator.gather(rewards)).nan_to_num(0.0).item()  # where none applied
            get_critic(self.accelerator.unwrap_model(self.model)).start_at(mean)

    def credit(self, rollout: Rollout) -> Credit:
        """Returns advantages and returns, (B, T)."""
        mask = rollout.completion_mask
        penalty, own_penalty = self.reference.penalties(rollout, self.beta)
        totals = self.accelerator.gather(rollout.rewards - core.masked_sum(penalty, mask, dim=1))
        token_rewards = self._token_rewards(rollout) - penalty
        to_come = core.discounted_returns(token_rewards, mask, self.args.gamma)
        values, states = self._values_and_states(rollout.old_values)
        if self.fitted is not None:
            values = self.fitted_values(values, rollout.completion_ids, totals, to_come, mask)
        advantages = core.generalized_advantages(token_rewards, values, mask, self.args.gamma, self.args.lam)
        returns = advantages + values
        # The exact KL of a state does not depend on the token drawn there, which is charged its own KL (k1) instead.
        advantages = advantages + (penalty - own_penalty)

        self.meter.log_moments("returns", returns, mask)
        # Compared with what really came: returns with lam below 1 contain the values themselves.
        self.meter.log_explained(values, to_come, mask, totals, self.completions_per_prompt)
        self.meter.log_mean("value/mean", values, mask)
        if states is not None and self.model.training:
            critic = get_critic(self.accelerator.unwrap_model(self.model))
            rates = (self.args.critic_extra_epochs, self.args.critic_learning_rate, self.args.cliprange_value)
            train_on_states(critic, states, values, returns, mask, self.accelerator, *rates)

        if self.args.normalize_advantages:
            advantages = core.standardize(advantages, self.meter.moments(advantages, mask))
        return Credit(advantages=advantages * mask, returns=returns, values=values)

    def _values_and_states(self, found: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns the values, (B, T), in a critic's output, and for extra epochs the states in it, (B, T, D)."""
        return (found[..., 0], found[..., 1:]) if self.args.critic_extra_epochs else (found, None)

    def _token_rewards(self, rollout: Rollout) -> Tensor:
        """Returns token rewards, (B, T): the reward at the last token, or what each token adds to the potential."""
        mask = rollout.completion_mask
        if self.args.shaping is None:
            return core.place_at_end(rollout.rewards, mask)
        potentials = self.potentials(rollout.completion_ids, mask)
        return core.shaped_rewards(rollout.rewards, potentials, mask, self.args.gamma)

    def loss(self, scored: ScoredCompletions, rollout: Rollout) -> Tensor:
        """Returns the loss, averaged over the tokens of the rollout: each token weighs the same in any batch."""
        mask = rollout.completion_mask
        clip = (rollout.old_log_probs, rollout.advantages, self.epsilon_low, self.epsilon_high)
        policy_loss = core.clipped_policy_loss(scored.log_probs, *clip)
        is_warming_up = self.state.global_step < self.args.critic_warmup_steps
        # Kept in the graph, times 0, while the critic alone learns: an engine waits for a gradient of each weight.
        per_token = policy_loss * 0.0 if is_warming_up else policy_loss
        if self.fitted is None:
            per_token = per_token + self.args.vf_coef * self._value_loss(scored, rollout)
        with torch.no_grad():
            self.meter.log_clipping(*core.clipped(scored.log_probs, *clip), mask)
            approx_kl = core.k3(rollout.old_log_probs, scored.log_probs)
            self.meter.log_means({"policy/loss": policy_loss, "policy/approx_kl": approx_kl}, mask)
        if self.args.entropy_coef and not is_warming_up:
            per_token = per_token - self.args.entropy_coef * scored.entropy
        return core.masked_sum(per_token, mask) / (len(mask) * rollout.mean_length[0])

    def _value_loss(self, scored: ScoredCompletions, rollout: Rollout) -> Tensor:
        """Returns the loss of a critic that is trained, (B, T)."""
        mask = rollout.completion_mask
        limit = self.args.cliprange_value
        values, _ = self._values_and_states(scored.state_values)
        value_loss = core.clipped_value_loss(values, rollout.old_values, rollout.returns, limit)
        clipped = (values - rollout.old_values).abs() > limit
        self.meter.log_means({"value/loss": value_loss, "value/clip_ratio": clipped}, mask)
        return value_loss
