"""The policy and its rows before training: loading, what is undone of TRL's changes, and how it is run."""

import copy
import functools
from typing import Any

from accelerate.utils import is_peft_model
from datasets import Dataset
from peft import PromptLearningConfig
from torch import Tensor
from transformers import PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled

from lmrl import models

from .configs import PolicyGradientConfig

# Values of `init_lora_weights` that leave the weights of the base as they are.
INITS_THAT_KEEP_THE_BASE = (True, False, "gaussian", "eva", "orthogonal")


def as_dataset(rows: Any) -> Any:
    """Returns rows given as a list of `dict` as a dataset, also in several sets, and others as they are."""
    if isinstance(rows, dict):
        return {name: as_dataset(rows_of_set) for name, rows_of_set in rows.items()}
    return Dataset.from_list(rows) if isinstance(rows, list) else rows


def loading_options(args: PolicyGradientConfig, quantization_config: Any) -> dict[str, Any]:
    """Returns the options with which a policy is loaded that is given by its name."""
    options = {
        "trust_remote_code": args.trust_remote_code,
        "visible_tokens": args.visible_tokens,
        **(args.model_init_kwargs or {}),
    }
    if quantization_config is not None:
        options["quantization_config"] = quantization_config
    if args.distributed_state.distributed_type in ("MULTI_GPU", "DEEPSPEED"):
        options["device_map"] = None  # each process has the model on its own device
    return options


def adapter_weights(model: Any) -> dict[str, Tensor]:
    """Returns the trainable weights of a policy that has an adapter before TRL gets it; of another one nothing."""
    if not is_peft_model(model):
        return {}
    return {name: weight.data for name, weight in model.named_parameters() if weight.requires_grad}


def copy_before_adapter(model: Any, peft_config: Any, args: PolicyGradientConfig) -> PreTrainedModel | None:
    """
    Returns a copy of a policy to be its reference, where turning its adapter off would not give it back: the adapter
    trains biases of the base along, or a part of the base's weights becomes its start. Else None.

    Raises:
        ValueError: For an adapter that cannot be trained, or a copy that cannot be made.
    """
    config = models.adapter_config(model, peft_config)
    _check_adapter(config)
    is_measured = args.beta != 0 and args.reference_model_name_or_path is None
    if not is_measured or not _changes_base(config):
        return None
    if is_deepspeed_zero3_enabled():
        raise ValueError(
            f"`bias` and `init_lora_weights` of an adapter must leave its base as it is under ZeRO-3, got {config}. "
            "The reference would be a copy of shards: name it (`reference_model_name_or_path`), or use another engine."
        )
    copied = copy.deepcopy(model)
    copied = copied.get_base_model() if is_peft_model(copied) else copied
    models.fuse_activations(copied)
    return copied


def _check_adapter(config: Any) -> None:
    if isinstance(config, PromptLearningConfig):
        raise ValueError(
            f"`peft_config` must be an adapter of the model's layers, such as a LoraConfig, got a "
            f"{type(config).__name__}. Virtual tokens before the prompt are not scored."
        )


def _changes_base(config: Any) -> bool:
    trains_bias = getattr(config, "bias", "none") != "none"
    return trains_bias or getattr(config, "init_lora_weights", True) not in INITS_THAT_KEEP_THE_BASE


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
    Returns whether a policy before its first update, out of its engine, is the same as its own reference. An adapter
    that does not start at zero differs from its base; one trained further has TRL's copy of it, `ref`, as reference.
    """
    if not is_peft_model(model) or "ref" in model.peft_config:
        return True
    inits = [getattr(config, "init_lora_weights", False) for config in model.peft_config.values()]
    return all(init not in (False, "loftq", "orthogonal") for init in inits)
