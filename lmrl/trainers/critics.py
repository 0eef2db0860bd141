"""Critics: the parts of a policy that give values to states, and how they are trained."""

from collections.abc import Mapping

import torch
from accelerate.utils import is_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from lmrl.models import Critic, TrunkAdapter, attach_critic, copy_backbone, disable_dropout, load_backbone
from lmrl.utils import known_as

from .configs import PPOConfig


def make_critic(policy: PreTrainedModel, args: PPOConfig) -> Critic:
    """
    Returns a new critic of the kind that `args.critic` names, made a part of a policy that is out of its engine.

    Raises:
        ValueError: If the policy has no adapter for a critic with one, or the critic reads other tokens.
    """
    base = policy.get_base_model() if is_peft_model(policy) else policy
    match args.critic:
        case "adapter":
            return attach_critic(base, adapter=_make_adapter(base, args))
        case "separate":
            return attach_critic(base, backbone=_make_backbone(policy, base, args))
    return attach_critic(base)


def _make_adapter(base: PreTrainedModel, args: PPOConfig) -> TrunkAdapter:
    options = args.gradient_checkpointing_kwargs or {}
    if args.gradient_checkpointing and options.get("use_reentrant"):
        raise ValueError(
            "`critic` must not be 'adapter' with reentrant gradient checkpointing, got 'adapter'. The backward pass "
            "would run the policy's layers again without knowing whose adapter was on: take critic='shared', turn "
            "`gradient_checkpointing` off, or (not under ZeRO-3) set `gradient_checkpointing_kwargs` to "
            "{'use_reentrant': False}."
        )
    return TrunkAdapter(base)


def _make_backbone(policy: PreTrainedModel, base: PreTrainedModel, args: PPOConfig) -> PreTrainedModel:
    name = args.critic_model_name_or_path
    if name is None and not getattr(base, "is_quantized", False):
        return copy_backbone(policy)
    with known_as("critic_model_name_or_path"):
        backbone = load_backbone(name or base.config._name_or_path, dtype=base.dtype)
    policy_size = base.config.get_text_config().vocab_size
    critic_size = backbone.config.get_text_config().vocab_size
    if critic_size != policy_size:
        raise ValueError(
            f"`critic_model_name_or_path` must have the policy's vocabulary of {policy_size} tokens, got {name!r} "
            f"with {critic_size}. The critic reads the policy's tokens: leave it out to start from the policy."
        )
    if args.disable_dropout:
        disable_dropout(backbone)
    return backbone


def critic_weights(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the critic's weights out of those of a policy, by their names in the critic."""
    return {name.split("critic.", 1)[1]: weight for name, weight in state_dict.items() if "critic." in name}


def set_learning_rate(optimizer: torch.optim.Optimizer, model: nn.Module, learning_rate: float | None) -> None:
    """
    Puts the weights of a policy's critic into parameter groups of their own, with their learning rate if there is one.
    An optimizer that was made before the critic gets them.
    """
    critic = [parameter for name, parameter in model.named_parameters() if "critic." in name]
    critic_ids = {id(parameter) for parameter in critic}
    if critic_ids.isdisjoint(id(parameter) for group in optimizer.param_groups for parameter in group["params"]):
        optimizer.add_param_group({"params": [parameter for parameter in critic if parameter.requires_grad]})
    if learning_rate is None:
        return
    for group in list(optimizer.param_groups):
        critic_params = [parameter for parameter in group["params"] if id(parameter) in critic_ids]
        if not critic_params:
            continue
        if len(critic_params) == len(group["params"]):
            group["lr"] = learning_rate
            continue
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in critic_ids]
        optimizer.add_param_group({**group, "params": critic_params, "lr": learning_rate})
