"""The reference policy that the KL penalty holds on to."""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from accelerate.logging import get_logger
from accelerate.utils import is_peft_model
from torch import Tensor
from transformers import PreTrainedModel
from trl.models import prepare_deepspeed, prepare_fsdp
from trl.trainer.callbacks import SyncRefModelCallback

from lmrl import core
from lmrl.models import add_scoring_forward, check_scoring_forward, fuse_activations, load_model, load_tokenizer

if TYPE_CHECKING:
    from .rollout import PolicyGradientTrainer

logger = get_logger(__name__)

REFERENCE_NAME = "reference.safetensors"


def make_reference(trainer: "PolicyGradientTrainer") -> Any:
    """
    Returns the frozen model that the KL is measured to: the one named by `reference_model_name_or_path`, else a copy
    of the policy as it is now. None without a KL penalty, and with LoRA where none is named: TRL then asks the model
    without its new adapter.

    Args:
        trainer ([`PolicyGradientTrainer`]):
            Trainer whose policy has not been given its scoring forward yet.

    Raises:
        ValueError: If the named model reads other tokens than the policy, or a reference cannot follow the policy.
    """
    name, lora = trainer.args.reference_model_name_or_path, is_peft_model(trainer.model)
    if trainer.args.sync_ref_model and lora:
        raise ValueError(
            "sync_ref_model=True mixes the policy's weights into those of its reference, and with LoRA the policy is "
            "an adapter. Leave sync_ref_model out, or train the whole model."
        )
    if trainer.beta == 0 or (name is None and lora):
        return None
    with trainer.gathered_policy() as policy:
        reference = _copy(policy) if name is None else _load(name, trainer)
    reference.eval().requires_grad_(False)
    add_scoring_forward(reference, trainer.temperature)
    if name is not None:
        check_scoring_forward(reference, trainer.temperature)
    prepared = _prepare(trainer, reference)
    if trainer.args.sync_ref_model:
        trainer.add_callback(SyncRefModelCallback(ref_model=prepared, accelerator=trainer.accelerator))
    return prepared


def _copy(policy: Any) -> Any:
    reference = copy.deepcopy(policy)
    reference.__dict__.pop("forward", None)  # TRL's, whose closure still holds the policy
    return reference


def _load(name: str, trainer: "PolicyGradientTrainer") -> PreTrainedModel:
    policy, trust = trainer._base_model, trainer.args.trust_remote_code
    reference = load_model(name, dtype=policy.dtype, trust_remote_code=trust)
    _check_vocabulary(name, reference, trainer)
    if trainer.args.sync_ref_model and _shapes(reference) != _shapes(trainer.model):
        raise ValueError(
            f"sync_ref_model=True mixes the policy's weights into those of its reference, and {name!r} has weights of "
            "other shapes than the policy. Leave sync_ref_model out."
        )
    fuse_activations(reference)
    return reference


def _shapes(model: torch.nn.Module) -> list[torch.Size]:
    return [parameter.shape for parameter in model.parameters()]


def _check_vocabulary(name: str, reference: PreTrainedModel, trainer: "PolicyGradientTrainer") -> None:
    """The reference is given the ids that the policy has sampled. Rows of its embedding past these do no harm."""
    ours, theirs = (model.config.get_text_config().vocab_size for model in (trainer._base_model, reference))
    try:
        words = load_tokenizer(name, trust_remote_code=trainer.args.trust_remote_code).get_vocab()
    except ValueError:  # no tokenizer lies beside it: the number of tokens has to do
        words = None
    remedy = "The KL of a token needs the same tokens in both: name a model with the policy's tokenizer."
    if theirs < ours or (words is None and theirs != ours):
        raise ValueError(f"The reference {name!r} has {theirs} tokens and the policy {ours}. {remedy}")
    own = trainer._tokenizer.get_vocab()
    if words is not None and (apart := sorted(own.items() ^ words.items(), key=lambda item: item[1])):
        token, place = apart[0]
        raise ValueError(
            f"The tokenizers of the policy and of the reference {name!r} differ in {len(apart)} tokens, such as "
            f"{token!r} with the id {place}. {remedy}"
        )


def _prepare(trainer: "PolicyGradientTrainer", reference: Any) -> Any:
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


def control_kl(trainer: "PolicyGradientTrainer", kl: float) -> None:
    """
    Set the coefficient of the next rollout, and stop where the policy has gone too far.

    Args:
        trainer ([`PolicyGradientTrainer`]):
            Trainer with a reference.
        kl (`float`):
            KL of the rollout to the reference, in nats per completion.
    """
    args = trainer.args
    if args.kl_target is not None:
        num_samples = args.generation_batch_size
        trainer.beta = core.adaptive_coefficient(trainer.beta, kl, args.kl_target, args.kl_horizon, num_samples)
    if args.max_kl is not None and kl > args.max_kl:
        trainer.control.should_training_stop = True
        logger.warning(
            f"Stopping at step {trainer.state.global_step}: the KL to the reference is {kl:.3f} nats per completion, "
            f"above max_kl={args.max_kl}."
        )


def save_reference(trainer: "PolicyGradientTrainer", folder: Path) -> None:
    """
    Write a reference that moves into a checkpoint, on the process that saves.

    Args:
        trainer ([`PolicyGradientTrainer`]):
            Trainer with `sync_ref_model`.
        folder (`Path`):
            The checkpoint.
    """
    if trainer.args.should_save and not _is_sharded(trainer):
        safetensors.torch.save_model(trainer.accelerator.unwrap_model(trainer.ref_model), str(folder / REFERENCE_NAME))


def load_reference(trainer: "PolicyGradientTrainer", folder: Path) -> None:
    """Load what [`save_reference`] wrote, into the reference of each process."""
    if (folder / REFERENCE_NAME).is_file() and not _is_sharded(trainer):
        safetensors.torch.load_model(trainer.accelerator.unwrap_model(trainer.ref_model), str(folder / REFERENCE_NAME))
    else:
        logger.warning(f"{folder} has no moving reference: it begins anew from the policy as it was given.")


def _is_sharded(trainer: "PolicyGradientTrainer") -> bool:
    return bool(trainer.is_fsdp_enabled or trainer._dist.is_zero3)
