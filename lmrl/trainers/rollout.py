"""Rollouts and their credit: the tensors that a policy-gradient trainer works on."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from lmrl.models import ScoredCompletions


@dataclass(frozen=True)
class Credit:
    """
    Result of [`~PolicyGradientTrainer.credit`]. NaN, as in completions without a reward, becomes 0.

    Args:
        advantages (`torch.Tensor` of shape `(B,)` or `(B, T)`):
            How much better than expected each completion was, or each token.
        returns (`torch.Tensor` of shape `(B, T)`, *optional*):
            What a critic's values should have been.
        values (`torch.Tensor` of shape `(B, T)`, *optional*):
            Values that replace the `old_values` from the policy's pass.
        extra (`dict[str, torch.Tensor]`, *optional*):
            Further tensors that the loss reads, each with B rows, by names that no field of [`Rollout`] has.
    """

    advantages: Tensor
    returns: Tensor | None = None
    values: Tensor | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Rollout:
    """
    Completions of this process with all that is known of them: the batch that `credit` and `loss` get.

    TRL carries it as a dictionary ([`~Rollout.to_dict`], [`~Rollout.from_dict`]): it shuffles the rows in unison, cuts
    them into `steps_per_generation` batches, and serves each batch `num_iterations` times.

    Args:
        prompt_ids, prompt_mask (`torch.Tensor` of shape `(B, P)`):
            Token ids of the prompts, padded on the left; 1 where one is real.
        completion_ids, completion_mask (`torch.Tensor` of shape `(B, T)`):
            Token ids of the completions, padded on the right; 1 where one counts: up to and with the first EOS. All 0
            for a completion without reward, and with `mask_truncated_completions` for one without an EOS.
        rewards (`torch.Tensor` of shape `(B,)`):
            Weighted sum of the rewards, clipped, less the penalty for not ending; NaN where no reward applied.
        mean_length (`torch.Tensor` of shape `(B,)`):
            Mean length of the completions of all processes, those without reward included; the same in every row. A
            loss that is divided by it gives each token the same weight, however the rollout is cut into batches.
        lengths (`torch.Tensor` of shape `(B,)`, *optional*):
            Lengths of the completions in tokens, also of those without reward. Present in `credit`.
        old_log_probs (`torch.Tensor` of shape `(B, T)`, *optional*):
            Log-probabilities under the policy that sampled. Present in `credit` and `loss`.
        sampling_log_probs (`torch.Tensor` of shape `(B, T)`, *optional*):
            The same, as computed by the sampler. Present if `vllm_importance_sampling_correction` is on.
        old_values (`torch.Tensor` of shape `(B, T)`, or in `credit` `(B, T, ...)`, *optional*):
            The critic's values at that time, of the state before each token; until `credit` also, or instead, states.
        ref_log_probs (`torch.Tensor` of shape `(B, T)`, *optional*):
            Log-probabilities under the reference. Present if `beta` is above 0.
        exact_kl (`torch.Tensor` of shape `(B, T)`, *optional*):
            KL(policy that sampled || reference) over the vocabulary, in nats, in the state before each token. Present
            with `kl_estimator="exact"`.
        greedy_rewards (`torch.Tensor` of shape `(B, 1)` or `(B, L)`, *optional*):
            Rewards of the greedy completions of the same prompts, or with `shaping` the rewards to come at each place
            of the longest possible completion. Present with `baseline="greedy"`.
        position (`torch.Tensor` of shape `(B,)`, *optional*):
            Place of each row in the order of generation.
        advantages, returns (`torch.Tensor`, *optional*):
            From [`Credit`]. Present in `loss`.
        extra (`dict[str, torch.Tensor]`, *optional*):
            Further tensors, of [`Credit`] or of [`~PolicyGradientTrainer.extra_rewards`].
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    completion_ids: Tensor
    completion_mask: Tensor
    rewards: Tensor
    mean_length: Tensor
    # `Any` as in ScoredCompletions: which of them are present follows from the algorithm, not from a type.
    lengths: Any = None
    old_log_probs: Any = None
    sampling_log_probs: Any = None
    old_values: Any = None
    ref_log_probs: Any = None
    exact_kl: Any = None
    greedy_rewards: Any = None
    position: Any = None
    advantages: Any = None
    returns: Any = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def from_sampled(
        cls, sampled: Mapping[str, Tensor], rewards: Tensor, lengths: Tensor, extra: Mapping[str, Tensor]
    ) -> "Rollout":
        """
        Returns the rollout of what TRL has sampled, with its rewards, (B,), and with the lengths of the completions of
        all processes, (N,). Completions without a reward are masked out. `extra` may have further fields.
        """
        names = ("prompt_ids", "prompt_mask", "completion_ids")
        own = {
            "completion_mask": sampled["completion_mask"] * (~rewards.isnan()).unsqueeze(1),
            "rewards": rewards,
            "mean_length": lengths.mean().clamp(min=1).expand(len(rewards)),
            "lengths": sampled["completion_mask"].sum(dim=1),
            "position": torch.arange(len(rewards), device=rewards.device),
        }
        return cls.from_dict({name: sampled[name] for name in names} | own | dict(extra))

    @classmethod
    def from_dict(cls, tensors: Mapping[str, Tensor]) -> "Rollout":
        """Returns the rollout that [`~Rollout.to_dict`] gave; names that are no field go into `extra`."""
        known = {item.name for item in fields(cls)} - {"extra"}
        own = {name: tensor for name, tensor in tensors.items() if name in known}
        extra = {name: tensor for name, tensor in tensors.items() if name not in known}
        return cls(**own, extra=extra)

    def to_dict(self) -> dict[str, Tensor]:
        """Returns the tensors that are present by name, those of `extra` included."""
        own = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "extra"}
        return {name: tensor for name, tensor in own.items() if tensor is not None} | dict(self.extra)

    @property
    def input_ids(self) -> Tensor:
        """Prompts and completions, (B, P + T)."""
        return torch.cat([self.prompt_ids, self.completion_ids], dim=1)

    @property
    def attention_mask(self) -> Tensor:
        """1 where a token of the prompt or of the completion is real, (B, P + T)."""
        return torch.cat([self.prompt_mask, self.completion_mask], dim=1)

    def with_policy_pass(self, scored: ScoredCompletions) -> "Rollout":
        """Returns the rollout with the log-probabilities and values of the policy that sampled it."""
        values = None if scored.state_values is None else scored.state_values.detach()
        return replace(self, old_log_probs=scored.log_probs.detach(), old_values=values)

    def with_credit(self, credit: Credit) -> "Rollout":
        """
        Returns the rollout with its credit.

        Raises:
            ValueError: If a tensor in `credit.extra` has the name of a field.
        """
        if taken := credit.extra.keys() & {item.name for item in fields(self)}:
            raise ValueError(
                f"`extra` of a Credit must not have names of Rollout's fields, got {min(taken)!r}. Rename it."
            )
        return replace(
            self,
            old_values=self.old_values if credit.values is None else credit.values,
            advantages=credit.advantages.nan_to_num(0.0),
            returns=None if credit.returns is None else credit.returns.nan_to_num(0.0),
            extra={**self.extra, **{name: tensor.nan_to_num(0.0) for name, tensor in credit.extra.items()}},
        )

    def map(self, fn: Callable[[Tensor], Tensor]) -> "Rollout":
        """Returns the rollout with a function applied to each of its tensors, for example a choice of rows."""
        return Rollout.from_dict({name: fn(tensor) for name, tensor in self.to_dict().items()})

    def in_order_of_generation(self) -> "Rollout":
        """Returns the rollout with its rows as they were generated: the completions of a prompt side by side."""
        order = self.position.argsort()
        return self.map(lambda tensor: tensor[order])

    def split(self, batch_size: int) -> Iterator["Rollout"]:
        """Yields the rollout in batches of `batch_size` rows; the last one may be smaller."""
        batches = {name: tensor.split(batch_size) for name, tensor in self.to_dict().items()}
        for tensors in zip(*batches.values(), strict=True):
            yield Rollout.from_dict(dict(zip(batches, tensors, strict=True)))
