"""A policy with LoRA adapters: what TRL changes about it and is undone here."""

import functools
from typing import Any

from accelerate.utils import is_peft_model
from torch import Tensor

from lmrl.models import upcast_adapters_to_fp32


def adapter_weights(model: Any) -> dict[str, Tensor]:
    """Returns the trainable weights of a policy that has an adapter before TRL gets it; of another one nothing."""
    if not is_peft_model(model):
        return {}
    return {name: weight.data for name, weight in model.named_parameters() if weight.requires_grad}


def undo_trl_adapter_changes(model: Any, given: dict[str, Tensor]) -> None:
    """
    Undoes two things that TRL does with a policy with adapters.

    On a quantised base it rounds the adapter to bfloat16, as is done for supervised tuning: the small steps of
    reinforcement learning would be rounded away, and an adapter trained further would not be the one that was given.
    And it would save its frozen copy of an adapter trained further in a folder `ref` of each checkpoint; a resumed run
    makes that copy again. `given` is the result of [`adapter_weights`] before.
    """
    if not is_peft_model(model):
        return
    for name, weight in model.named_parameters():
        if name in given and weight.dtype != given[name].dtype:
            weight.data = given[name].to(weight.device)
    upcast_adapters_to_fp32(model)
    model.save_pretrained = functools.partial(model.save_pretrained, selected_adapters=model.active_adapters[:1])


def starts_at_reference(model: Any) -> bool:
    """
    Returns whether a policy before its first update, out of its engine, is the same as its own reference.

    With a new LoRA adapter the reference is the base, from which an adapter that does not start at zero
    (`init_lora_weights`) differs. An adapter trained further has TRL's frozen copy of it, `ref`, as its reference.
    """
    if not is_peft_model(model) or "ref" in model.peft_config:
        return True
    return all(getattr(config, "init_lora_weights", False) is True for config in model.peft_config.values())
