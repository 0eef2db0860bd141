"""Passes of the policy and of the reference over a rollout."""

from typing import Any

import torch
from accelerate import Accelerator

from lmrl.models import ScoredCompletions

from .configs import PolicyGradientConfig
from .meter import Meter
from .rollout import Rollout


class Scorer:
    """
    Runs models over completions, in the precision of the run.

    Args:
        accelerator ([`~accelerate.Accelerator`]):
            Has the autocast of the run.
        args ([`PolicyGradientConfig`]):
            Configuration, with the batch sizes.
        meter ([`Meter`]):
            Counts the seconds of the passes without gradient.
    """

    def __init__(self, accelerator: Accelerator, args: PolicyGradientConfig, meter: Meter) -> None:
        self.accelerator = accelerator
        self.args = args
        self.meter = meter

    def forward(self, model: Any, rollout: Rollout, with_values: bool = False) -> ScoredCompletions:
        """
        Returns log-probabilities and entropies of completions, and the values of the critic on request.

        Args:
            model (`torch.nn.Module`):
                Policy or reference, in its engine.
            rollout ([`Rollout`]):
                Completions, as many as fit the memory.
            with_values (`bool`, *optional*, defaults to `False`):
                Whether to run the critic, which is a part of the policy.
        """
        with self.accelerator.autocast():
            scored: ScoredCompletions = model(
                input_ids=rollout.input_ids,
                attention_mask=rollout.attention_mask,
                completion_length=rollout.completion_ids.shape[1],
                with_values=with_values,
            )
        return scored

    @torch.no_grad()
    def forward_in_batches(self, model: Any, rollout: Rollout, with_values: bool = False) -> ScoredCompletions:
        """
        Returns the same of a rollout of any size, without gradient.

        Args:
            model (`torch.nn.Module`):
                Policy or reference, in its engine.
            rollout ([`Rollout`]):
                Completions.
            with_values (`bool`, *optional*, defaults to `False`):
                Whether to run the critic.
        """
        in_training = self.meter.mode() == "train"
        batch_size = self.args.per_device_train_batch_size if in_training else self.args.per_device_eval_batch_size
        with self.meter.clock("scoring"):
            parts = [self.forward(model, batch, with_values) for batch in rollout.split(batch_size)]
        return ScoredCompletions(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})
