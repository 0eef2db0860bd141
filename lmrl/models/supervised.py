"""The forward of a supervised step on a CPU: log-probabilities of the labelled positions alone."""

import functools
import types
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from trl.trainer.utils import FusedCausalLMOutput

from .loading import backbone_of
from .scoring import add_scoring_heads, logit_transform, scatter_to_padded

_IGNORED = -100  # the label of a position that is not trained on


def add_supervised_forward(model: Any) -> None:
    """
    Patches the forward that `trl.SFTTrainer` calls to project labelled positions only, with equal results.

    On a GPU TRL does so itself. On a CPU it projects every position, prompts and padding included, through the LM
    head, forward and backward, and multiplies in float32 in the backward pass: half of a step of a small model. What
    it averages, and what it logs, is computed from this forward's outputs as from those of its own.

    Args:
        model ([`~transformers.PreTrainedModel`] or `peft.PeftModel`):
            Model of an [`~trl.SFTTrainer`] that has been constructed and has not yet trained.
    """
    base: PreTrainedModel = model.get_base_model() if hasattr(model, "peft_config") else model
    fused = base.forward
    transform = logit_transform(base, temperature=1.0)
    add_scoring_heads(base)

    @functools.wraps(type(base).forward)  # `generate` reads the signature
    def forward(
        self: PreTrainedModel,
        *args: Any,
        fused_lm_head: bool = False,
        labels: Tensor | None = None,
        num_items_in_batch: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Scores the labels on a CPU, and else runs the forward that was there."""
        # A mixture of experts balances their load with the router's logits; parallel sequences have shifted labels.
        is_other = kwargs.get("output_router_logits") or kwargs.get("shift_labels") is not None
        if not fused_lm_head or labels is None or labels.device.type != "cpu" or is_other:
            given = {"labels": labels, "num_items_in_batch": num_items_in_batch}
            given = {name: value for name, value in given.items() if value is not None}
            return fused(*args, fused_lm_head=fused_lm_head, **given, **kwargs)
        kwargs["use_cache"] = False
        states = backbone_of(self)(*args, **kwargs).last_hidden_state[:, :-1]
        targets = labels[:, 1:]
        mask = targets != _IGNORED
        scored = self.get_output_embeddings()(states[mask], targets=targets[mask], transform=transform, with_top1=True)
        log_probs, entropy, is_top1 = (scatter_to_padded(values, mask) for values in scored)
        count = mask.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        return FusedCausalLMOutput(
            loss=-log_probs.sum() / count, log_probs=log_probs, entropy=entropy, is_top1=is_top1, label_mask=mask
        )

    base.forward = types.MethodType(forward, base)
