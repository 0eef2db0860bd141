"""The policy and its rows before training: loading, what is undone of TRL's changes, and how it is run."""

import functools
from typing import Any

from accelerate.utils import is_peft_model
from datasets import Dataset
from torch import Tensor

from lmrl import models


def as_dataset(rows: Any) -> Any:
    """Returns rows given as a list of `dict` as a dataset, and others as they are."""
    return Dataset.from_list(rows) if isinstance(rows, list) else rows


def adapter_weights(model: Any) -> dict[str, Tensor]:
    """Returns the trainable weights of a policy that has an adapter before TRL gets it; of another one nothing."""
    if not is_peft_model(model):
        return {}
    return {name: weight.data for name, weight in model.named_parameters() if weight.requires_grad}


def prepare(model: Any, given_adapter: dict[str, Tensor], without_dropout: bool) -> None:
    """Prepares a policy for training once TRL has it; `given_adapter` is the result of [`adapter_weights`] before."""
    if is_peft_model(model):
        _undo_trl_adapter_changes(model, given_adapter)
    if without_dropout:
        models.disable_dropout(model)
    models.fuse_activations(model)


def _undo_trl_adapter_changes(model: Any, given: dict[str, Tensor]) -> None:
    """
    Undoes two things that TRL does with a policy with adapters.

    On a quantised base it rounds the adapter to bfloat16, as is done for supervised tuning: the small steps of
    reinforcement learning would be rounded away, and an adapter trained further would not be the one that was given.
    And it would save its frozen copy of an adapter trained further in a folder `ref` of each checkpoint; a resumed run
    makes that copy again.
    """
    for name, weight in model.named_parameters():
        if name in given and weight.dtype != given[name].dtype:
            weight.data = given[name].to(weight.device)
    models.upcast_adapters_to_fp32(model)
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
