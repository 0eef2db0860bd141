"""Preparation of a policy for sampling: weights in the compute precision, and neutral generation defaults."""

import types
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedModel

from lmrl.utils import replaced


class DecodingWeights:
    """
    Copies of a policy's float32 weights in the precision that it decodes in.

    Autocast casts every weight again at every token, which makes decoding slower than in float32. Here each weight is
    cast once a rollout, into memory that is kept, as a CUDA graph requires. The copies take the places of the
    parameters in their modules. The parameters themselves are never written to: if a parameter's data were replaced
    by data of another type, autograd would drop the node on which DDP's hook is, and the processes would train apart.

    Args:
        mixed_precision (`str`):
            Precision of autocast, as Accelerate names it: `"bf16"`, `"fp16"`, or `"no"` without autocast, where the
            policy decodes with its parameters.
    """

    def __init__(self, mixed_precision: str) -> None:
        self.dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(mixed_precision)
        self._copies: dict[nn.Parameter, nn.Parameter] = {}

    @contextmanager
    def replacing(self, model: PreTrainedModel) -> Iterator[None]:
        """
        Runs the model with the copies, and its forward without wrappers; the parameters are back at the end.

        Not for parameters that are shards (ZeRO-3, FSDP).

        Args:
            model ([`~transformers.PreTrainedModel`]):
                Policy, not wrapped by PEFT (pass its base model; its adapters are cast too). The critic is left as it
                is.
        """
        if self.dtype is None:
            yield
            return
        places = [
            (module._parameters, name, parameter)
            for path, module in model.named_modules()
            if path.split(".")[0] != "critic"
            for name, parameter in module._parameters.items()
            if parameter is not None and parameter.dtype == torch.float32
        ]
        copies = {parameter: self._updated_copy(parameter) for parameter in {place[2] for place in places}}
        wrapped = model.__dict__.get("forward")  # with autocast and the scoring forward, which decoding does not need
        try:
            for parameters, name, parameter in places:
                parameters[name] = copies[parameter]
            model.forward = types.MethodType(type(model).forward, model)
            yield
        finally:
            for parameters, name, parameter in places:
                parameters[name] = parameter
            del model.forward
            if wrapped is not None:
                model.forward = wrapped

    @torch.no_grad()
    def _updated_copy(self, parameter: nn.Parameter) -> nn.Parameter:
        copy = self._copies.get(parameter)
        if copy is None or (copy.device, copy.shape) != (parameter.device, parameter.shape):
            copy = nn.Parameter(parameter.to(self.dtype), requires_grad=False)
            self._copies[parameter] = copy
        else:
            copy.copy_(parameter)
        return copy


@contextmanager
def neutral_generation_config(model: PreTrainedModel) -> Iterator[None]:
    """
    Replaces the model's own generation defaults for the time of the context.

    `generate` takes every option that the caller does not set from the checkpoint's `generation_config.json`, where a
    `no_repeat_ngram_size` or a `min_new_tokens` would change the distribution that is sampled from. NaN in the logits
    does not raise while sampling, where it would stop one process of several, or break a GPU's context: the scoring
    pass reports it.
    """
    own = model.generation_config
    neutral = GenerationConfig(
        eos_token_id=own.eos_token_id, pad_token_id=own.pad_token_id, remove_invalid_values=True
    )
    with replaced(model, "generation_config", neutral):
        yield
