"""Passes of the policy and of the reference over a rollout."""

from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator

from lmrl.models import ScoredCompletions

from .reference import Reference
from .rollout import Rollout


class Scorer:
    """Runs the policy or the reference, a model in its engine, over completions, under the accelerator's autocast."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator

    def forward(self, model: Any, rollout: Rollout, with_values: bool = False) -> ScoredCompletions:
        """Returns log-probabilities and entropies, (B, T), and with `with_values` the values of the critic."""
        with self.accelerator.autocast():
            scored: ScoredCompletions = model(
                input_ids=rollout.input_ids,
                attention_mask=rollout.attention_mask,
                completion_length=rollout.completion_ids.shape[1],
                with_values=with_values,
            )
        return scored

    def score(
        self, rollout: Rollout, policy: Any, reference: Reference, batch_size: int, with_policy: bool, has_critic: bool
    ) -> Rollout:
        """
        Returns a rollout with its log-probabilities under the reference, and, unless the training pass is to give
        them, those under the policy that sampled it, and the values of its critic.
        """
        if with_policy:
            rollout = rollout.with_policy_pass(self.forward_in_batches(policy, rollout, batch_size, has_critic))
        if reference.is_used:
            with reference.running(policy) as model:
                scored = self.forward_in_batches(model, rollout, batch_size)
            rollout = replace(rollout, ref_log_probs=scored.log_probs)
        return rollout

    @torch.no_grad()
    def forward_in_batches(
        self, model: Any, rollout: Rollout, batch_size: int, with_values: bool = False
    ) -> ScoredCompletions:
        """Returns the same of a rollout of any size, without gradient."""
        parts = [self.forward(model, batch, with_values) for batch in rollout.split(batch_size)]
        return ScoredCompletions(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})
