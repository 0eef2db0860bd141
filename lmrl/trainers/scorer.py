"""Passes of the policy and of the reference over a rollout."""

from typing import Any

import torch
from accelerate import Accelerator

from lmrl.models import ScoredCompletions

from .rollout import Rollout


class Scorer:
    """
    Runs the policy or the reference, a model in its engine, over completions in the precision of the run.

    Args:
        accelerator ([`~accelerate.Accelerator`]):
            Has the autocast of the run.
    """

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

    @torch.no_grad()
    def forward_in_batches(
        self, model: Any, rollout: Rollout, batch_size: int, with_values: bool = False
    ) -> ScoredCompletions:
        """Returns the same of a rollout of any size, without gradient."""
        parts = [self.forward(model, batch, with_values) for batch in rollout.split(batch_size)]
        return ScoredCompletions(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})
