"""PPO with a learned critic."""

import copy
from typing import Any

import torch
from accelerate.utils import is_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from lmrl import core
from lmrl.models import (
    ScoredCompletions,
    TrunkAdapter,
    attach_critic,
    disable_dropout,
    get_critic,
    load_backbone,
    load_critic,
    save_critic,
)

from .reference import kl_penalty
from .rollout import PolicyGradientTrainer, Rollout

CITATION = """@article{schulman2017proximal,
  title   = {Proximal Policy Optimization Algorithms},
  author  = {Schulman, John and Wolski, Filip and Dhariwal, Prafulla and Radford, Alec and Klimov, Oleg},
  journal = {arXiv preprint arXiv:1707.06347},
  year    = {2017}
}

@article{ziegler2019fine,
  title   = {Fine-Tuning Language Models from Human Preferences},
  author  = {Ziegler, Daniel M. and Stiennon, Nisan and Wu, Jeffrey and Brown, Tom B. and Radford, Alec and
             Amodei, Dario and Christiano, Paul and Irving, Geoffrey},
  journal = {arXiv preprint arXiv:1909.08593},
  year    = {2019}
}"""


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
    citation = CITATION
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
    _tag_names = ["trl", "lmrl", "ppo"]  # noqa: RUF012
    _has_critic = True

    def __init__(self, model: Any, reward_funcs: Any, args: Any, train_dataset: Any = None, **kwargs: Any) -> None:
        super().__init__(model, reward_funcs, args, train_dataset, **kwargs)
        with self.gathered_policy():
            attach_critic(
                self._base_model,
                backbone=self._critic_backbone() if args.critic == "separate" else None,
                adapter=self._critic_adapter() if args.critic == "adapter" else None,
            )

    def credit(self, rollout: Rollout) -> Rollout:
        """Returns `advantages` and `returns`, (B, T)."""
        mask, values = rollout["completion_mask"], rollout["old_values"]
        token_rewards = core.place_at_end(rollout["rewards"], mask) - kl_penalty(rollout, self.beta)
        advantages = core.generalized_advantages(token_rewards, values, mask, self.args.gamma, self.args.lam)
        returns = advantages + values
        return_moments = self._log_moments("returns", returns, mask)
        error_moments = self._reduce_moments(returns - values, mask)
        self._log_value("value/explained_variance", core.explained_variance(error_moments, return_moments))
        self._log_mean("value/mean", values, mask)
        if self.args.normalize_advantages:
            advantages = core.standardize(advantages, self._reduce_moments(advantages, mask))
        return {"advantages": advantages * mask, "returns": returns}

    def loss(self, scored: ScoredCompletions, rollout: Rollout) -> Tensor:
        """Returns the loss, averaged over the tokens of the rollout: each token weighs the same in any batch."""
        mask, args = rollout["completion_mask"], self.args
        policy = core.clipped_policy_loss(
            scored.log_probs,
            rollout["old_per_token_logps"],
            rollout["advantages"],
            self.epsilon_low,
            self.epsilon_high,
        )
        value = core.clipped_value_loss(
            scored.state_values, rollout["old_values"], rollout["returns"], args.cliprange_value
        )
        self._log_update(scored, rollout, policy.detach(), value.detach())
        per_token = policy + args.vf_coef * value
        if args.entropy_coef:
            per_token = per_token - args.entropy_coef * scored.entropy
        return core.masked_sum(per_token, mask) / (len(mask) * rollout["mean_length"][0])

    @torch.no_grad()
    def _log_update(self, scored: ScoredCompletions, rollout: Rollout, policy: Tensor, value: Tensor) -> None:
        """Means over the tokens of this batch on all processes, which differ in how many they have."""
        mask, old_logps = rollout["completion_mask"], rollout["old_per_token_logps"]
        value_clipped = (scored.state_values - rollout["old_values"]).abs() > self.args.cliprange_value
        policy_clipped = core.clip_fraction(
            scored.log_probs, old_logps, rollout["advantages"], mask, self.epsilon_low, self.epsilon_high
        )
        means = {
            "policy/loss": core.masked_mean(policy, mask),
            "policy/approx_kl": core.approximate_kl(scored.log_probs, old_logps, mask),
            "clip_ratio/region_mean": policy_clipped,
            "value/loss": core.masked_mean(value, mask),
            "value/clip_ratio": core.masked_mean(value_clipped.float(), mask),
        }
        sums = torch.stack([*means.values(), torch.ones_like(policy_clipped)]) * mask.sum()
        *totals, count = self.accelerator.reduce(sums, reduction="sum").tolist()
        for name, total in zip(means, totals, strict=True):
            self._log_value(name, total / max(count, 1))

    # -- the critic --------------------------------------------------------------------------------------------------

    def _on_first_rewards(self, rewards: Tensor) -> None:
        """A fresh critic says 0 of every state: let it start from the mean reward instead."""
        mean = torch.nanmean(self.accelerator.gather(rewards)).item()
        get_critic(self.accelerator.unwrap_model(self.model)).start_at(mean)
        if (scored := self._passes[0]) is not None:
            scored.state_values = scored.state_values + mean

    def _critic_adapter(self) -> TrunkAdapter:
        options = self.args.gradient_checkpointing_kwargs or {}
        if self.args.gradient_checkpointing and options.get("use_reentrant"):
            raise ValueError(
                "critic='adapter' with reentrant gradient checkpointing: the backward pass would run the policy's "
                "layers again without knowing whose adapter was on. Take critic='shared', turn gradient_checkpointing "
                "off, or (not under ZeRO-3) set gradient_checkpointing_kwargs to {'use_reentrant': False}."
            )
        return TrunkAdapter(self._base_model)

    def _critic_backbone(self) -> PreTrainedModel:
        policy, name = self._base_model, self.args.critic_model_name_or_path
        if name is None and not is_peft_model(self.accelerator.unwrap_model(self.model)):
            return copy.deepcopy(policy.base_model)
        backbone = load_backbone(name or policy.config._name_or_path, dtype=policy.dtype)
        sizes = [model.config.get_text_config().vocab_size for model in (policy, backbone)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"The critic {name!r} has a vocabulary of {sizes[1]} tokens and the policy one of {sizes[0]}: the "
                "critic reads the policy's tokens, so both must have the same. Leave critic_model_name_or_path out to "
                "start from the policy."
            )
        if self.args.disable_dropout:
            disable_dropout(backbone)
        return backbone

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Returns Trainer's optimizer with the critic in groups of its own, at `critic_learning_rate`."""
        optimizer = super().create_optimizer(model)
        parameters = (self.model if model is None else model).named_parameters()
        critic = {id(parameter) for name, parameter in parameters if "critic." in name}
        for group in list(optimizer.param_groups):
            mine = [parameter for parameter in group["params"] if id(parameter) in critic]
            if mine and len(mine) < len(group["params"]):
                group["params"] = [parameter for parameter in group["params"] if id(parameter) not in critic]
                optimizer.add_param_group({**group, "params": mine, "lr": self.args.critic_learning_rate})
            elif mine:
                group["lr"] = self.args.critic_learning_rate
        return optimizer

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        weights = self.model.state_dict() if state_dict is None else state_dict
        critic = {name.split("critic.", 1)[1]: value for name, value in weights.items() if "critic." in name}
        super()._save(output_dir, state_dict)  # takes the critic out of a state_dict that it was given
        if self.args.should_save:
            save_critic(critic, output_dir or self.args.output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._load_critic(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self._load_critic(str(self.state.best_model_checkpoint))

    def _load_critic(self, folder: str) -> None:
        """A checkpoint of DeepSpeed or FSDP has the whole module, critic and all: what they have loaded is shards."""
        if not (self.is_deepspeed_enabled or self.is_fsdp_enabled):
            load_critic(get_critic(self.accelerator.unwrap_model(self.model)), folder)
