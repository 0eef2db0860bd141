"""PPO with a learned critic."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lmrl import core
from lmrl.models import Critic, ScoredCompletions, get_critic
from lmrl.models.critic import make_critic
from lmrl.utils import refuse

from .base import PolicyGradientTrainer
from .configs import PPOConfig
from .rollout import Credit, Rollout


class PPOTrainer(PolicyGradientTrainer):
    """
    PPO on tokens: the KL penalty at every token, the reward at the last one, advantages by GAE from a critic.

    The critic is a head on the policy's hidden states (`args.critic="shared"`), on the policy's base with a LoRA
    adapter of the critic's own (`"adapter"`), or a model of its own (`"separate"`).
    From "Proximal Policy Optimization Algorithms" (Schulman et al., 2017, https://huggingface.co/papers/1707.06347),
    on language as in "Fine-Tuning Language Models from Human Preferences" (Ziegler et al., 2019,
    https://huggingface.co/papers/1909.08593).

    Args:
        model, reward_funcs, args, train_dataset, **kwargs:
            As for [`PolicyGradientTrainer`], with [`PPOConfig`].
    """

    name = "PPO"
    paper: Mapping[str, str] = {"title": "Proximal Policy Optimization Algorithms", "id": "1707.06347"}
    citation = Path(__file__).with_suffix(".bib").read_text(encoding="utf-8").strip()
    config_class = PPOConfig
    reported_settings = (
        "critic",
        "critic_learning_rate",
        "gamma",
        "lam",
        "vf_coef",
        "cliprange_value",
        "entropy_coef",
        *PolicyGradientTrainer.reported_settings,
    )

    def create_critic(self, policy: PreTrainedModel) -> Critic:
        """Returns the critic that the configuration names."""
        args = self.args
        is_reentrant = args.gradient_checkpointing and (args.gradient_checkpointing_kwargs or {}).get("use_reentrant")
        refuse(
            {
                "`critic` must not be 'adapter' with reentrant gradient checkpointing, got 'adapter'. The backward "
                "pass would run the policy's layers again without knowing whose adapter was on: take critic='shared', "
                "turn `gradient_checkpointing` off, or (not under ZeRO-3) set `gradient_checkpointing_kwargs` to "
                "{'use_reentrant': False}.": args.critic == "adapter" and is_reentrant
            }
        )
        return make_critic(policy, args.critic, args.critic_model_name_or_path, args.disable_dropout)

    def on_first_rewards(self, rewards: Tensor) -> None:
        """Initializes the critic's bias to the mean reward of the first rollout."""
        mean = torch.nanmean(self.accelerator.gather(rewards)).item()
        get_critic(self.accelerator.unwrap_model(self.model)).start_at(mean)

    def credit(self, rollout: Rollout) -> Credit:
        """Returns advantages and returns, (B, T)."""
        mask = rollout.completion_mask
        values = rollout.old_values
        token_rewards = core.place_at_end(rollout.rewards, mask) - self.reference.penalty(rollout, self.beta)
        advantages = core.generalized_advantages(token_rewards, values, mask, self.args.gamma, self.args.lam)
        returns = advantages + values

        return_moments = self.meter.log_moments("returns", returns, mask)
        error_moments = self.meter.moments(returns - values, mask)
        self.meter.log("value/explained_variance", core.explained_variance(error_moments, return_moments))
        self.meter.log_mean("value/mean", values, mask)

        if self.args.normalize_advantages:
            advantages = core.standardize(advantages, self.meter.moments(advantages, mask))
        return Credit(advantages=advantages * mask, returns=returns)

    def loss(self, scored: ScoredCompletions, rollout: Rollout) -> Tensor:
        """Returns the loss, averaged over the tokens of the rollout: each token weighs the same in any batch."""
        mask = rollout.completion_mask
        clip = (rollout.old_log_probs, rollout.advantages, self.epsilon_low, self.epsilon_high)
        value_range = self.args.cliprange_value
        policy_loss = core.clipped_policy_loss(scored.log_probs, *clip)
        value_loss = core.clipped_value_loss(scored.state_values, rollout.old_values, rollout.returns, value_range)
        with torch.no_grad():
            self.meter.log_clipping(*core.clipped(scored.log_probs, *clip), mask)
            value_clipped = (scored.state_values - rollout.old_values).abs() > value_range
            means = {
                "policy/loss": core.masked_mean(policy_loss, mask),
                "policy/approx_kl": core.approximate_kl(scored.log_probs, rollout.old_log_probs, mask),
                "value/loss": core.masked_mean(value_loss, mask),
                "value/clip_ratio": core.masked_mean(value_clipped.float(), mask),
            }
            self.meter.log_weighted(means, weight=mask.sum())
        per_token = policy_loss + self.args.vf_coef * value_loss
        if self.args.entropy_coef:
            per_token = per_token - self.args.entropy_coef * scored.entropy
        return core.masked_sum(per_token, mask) / (len(mask) * rollout.mean_length[0])
