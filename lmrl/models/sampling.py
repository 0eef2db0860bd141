"""Preparation of a policy for sampling: weights in the compute precision, and neutral generation defaults."""

import types
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import GenerationConfig, PreTrainedModel


@contextmanager
def decoding_weights(model: PreTrainedModel, dtype: torch.dtype) -> Iterator[None]:
    """
    Holds the model's float32 weights in `dtype` while decoding, and runs its forward without wrappers.

    Autocast casts every weight again at every token, which makes decoding slower than in float32. Here each weight is
    cast once a rollout. The parameters keep their identity, so that optimizers, DDP and LoRA are not affected, and get
    their float32 data back at the end. Not for parameters that are shards (ZeRO-3, FSDP).

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Policy, not wrapped by PEFT (pass its base model; its adapters are cast too).
        dtype (`torch.dtype`):
            Precision to decode in.
    """
    masters = [
        (parameter, parameter.data)
        for name, parameter in model.named_parameters()
        if parameter.dtype == torch.float32 and not name.startswith("critic.")
    ]
    wrapped = model.__dict__.get("forward")  # with autocast and the scoring forward, which decoding does not need
    try:
        for parameter, data in masters:
            parameter.data = data.to(dtype)
        model.forward = types.MethodType(type(model).forward, model)
        yield
    finally:
        for parameter, data in masters:
            parameter.data = data
        del model.forward
        if wrapped is not None:
            model.forward = wrapped


@contextmanager
def neutral_generation_config(model: PreTrainedModel) -> Iterator[None]:
    """
    Replaces the model's own generation defaults for the time of the context.

    `generate` takes every option that the caller does not set from the checkpoint's `generation_config.json`, where a
    `no_repeat_ngram_size` or a `min_new_tokens` would change the distribution that is sampled from. NaN in the logits
    does not raise while sampling, where it would stop one process of several, or break a GPU's context: the scoring
    pass reports it.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Model about to generate.
    """
    own = model.generation_config
    model.generation_config = GenerationConfig(
        eos_token_id=own.eos_token_id, pad_token_id=own.pad_token_id, remove_invalid_values=True
    )
    try:
        yield
    finally:
        model.generation_config = own
