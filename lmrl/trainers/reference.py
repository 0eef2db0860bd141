"""The reference policy that the KL penalty holds on to."""

import copy
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import is_peft_model
from torch import Tensor
from trl.models import prepare_deepspeed, prepare_fsdp
from trl.trainer.callbacks import SyncRefModelCallback

from lmrl import core
from lmrl.models import add_scoring_forward

if TYPE_CHECKING:
    from .rollout import RolloutTrainer


def make_reference(trainer: "RolloutTrainer") -> Any:
    """
    Returns a frozen copy of the policy as it is now; None without a KL penalty, and with LoRA, where TRL asks the
    model without its new adapter.

    Args:
        trainer ([`RolloutTrainer`]):
            Trainer whose policy has not been given its scoring forward yet.
    """
    if trainer.beta == 0 or is_peft_model(trainer.model):
        return None
    reference = copy.deepcopy(trainer.model)
    reference.__dict__.pop("forward", None)  # TRL's, whose closure still holds the policy
    reference.eval().requires_grad_(False)
    add_scoring_forward(reference, trainer.temperature)
    prepared = _prepare(trainer, reference)
    if trainer.args.sync_ref_model:
        trainer.add_callback(SyncRefModelCallback(ref_model=prepared, accelerator=trainer.accelerator))
    return prepared


def _prepare(trainer: "RolloutTrainer", reference: Any) -> Any:
    if trainer.is_deepspeed_enabled:
        return prepare_deepspeed(reference, trainer.accelerator)
    if trainer.is_fsdp_enabled:
        return prepare_fsdp(reference, trainer.accelerator)
    return trainer.accelerator.prepare_model(reference, evaluation_mode=True)


def kl_penalty(rollout: dict[str, Tensor], beta: float) -> Tensor:
    """Returns `beta * k1` of each token, (B, T), and zeros where there is no reference."""
    if "ref_per_token_logps" not in rollout:
        return torch.zeros_like(rollout["old_per_token_logps"])
    return beta * core.k1(rollout["old_per_token_logps"], rollout["ref_per_token_logps"])
