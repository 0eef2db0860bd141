"""A linear layer and its LoRA adapter as one function, with fewer passes over memory than one after the other."""

import functools
import types
import weakref
from typing import Any

import torch
from peft.tuners import lora
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D


class _WithLowRank(torch.autograd.Function):
    """
    Computes `inputs @ weight.T + bias + scaling * (inputs @ down.T) @ up.T` in the precision of `states`.

    The last term is added in the memory of the first product, in the backward pass too. For that pass it keeps the
    cast inputs, once for all layers that read them, and `scaling * (inputs @ down.T)`; a frozen weight is cast again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scaling: float,
    ) -> Tensor:
        """Returns the outputs, in the precision of the states, which are the inputs cast."""
        dtype = states.dtype
        down = down.to(dtype)
        up = up.to(dtype)
        output = linear(states, weight.to(dtype), None if bias is None else bias.to(dtype))
        hidden = linear(states, down).view(-1, len(down)).mul_(scaling)
        output.view(-1, output.shape[-1]).addmm_(hidden, up.T)
        ctx.save_for_backward(states, weight, down, up, hidden)
        ctx.scaling = scaling
        ctx.dtype = inputs.dtype
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients for the inputs, in their dtype, and for `down` and `up`, in float32."""
        states, weight, down, up, hidden = ctx.saved_tensors
        grad = grad.reshape(-1, grad.shape[-1])
        grad_hidden = (grad @ up).mul_(ctx.scaling)
        grad_inputs = None
        if ctx.needs_input_grad[0]:  # not in the first layer
            grad_inputs = (grad @ weight.to(grad.dtype)).addmm_(grad_hidden, down)
            grad_inputs = grad_inputs.view(states.shape).to(ctx.dtype)
        grad_down = grad_hidden.T @ states.reshape(-1, states.shape[-1])
        grad_up = grad.T @ hidden
        return grad_inputs, None, None, None, grad_down.to(torch.float32), grad_up.to(torch.float32), None


class _Cast:
    """Casts the inputs of layers, once where several layers read the same, such as queries, keys and values."""

    def __init__(self) -> None:
        self._inputs: Any = None
        self._version = -1
        self._states: Tensor | None = None

    def __reduce__(self) -> Any:  # a copy of the model gets a new one
        return _Cast, ()

    def __call__(self, inputs: Tensor, dtype: torch.dtype) -> Tensor:
        """Returns the inputs in a dtype, without a graph."""
        if inputs.dtype == dtype or inputs.is_inference():
            return inputs.detach().to(dtype)
        states = self._states
        is_known = states is not None and self._inputs() is inputs and self._version == inputs._version
        if states is None or not is_known or states.dtype != dtype:
            states = inputs.detach().to(dtype)
            self._states = states
            self._inputs = weakref.ref(inputs, self._forget)
            self._version = inputs._version
        return states

    def _forget(self, reference: Any) -> None:
        if reference is self._inputs:
            self._states = None


def fuse_adapters(model: nn.Module) -> None:
    """
    Makes one function compute each linear layer of a model with its LoRA adapter, under autocast or with gradients.

    PEFT runs the adapter's two layers separately, casts their inputs to the adapter's float32, from where autocast
    casts them back, and reads and writes the output four times. Here the adapter's term is added to the output in
    place. In float32 outputs and gradients are those of PEFT up to rounding, and in 16 bits no further from the exact
    ones. No weight is changed or copied, so saving and merging work as before.

    PEFT's own forward still runs wherever more is needed: DoRA and other variants, several active adapters, dropout,
    an adapter with a bias, a layer that is trained too, quantised, sharded or wrapped, and adapters that are merged or
    turned off. It also decodes, without autocast and gradient: for few rows it is as fast.
    """
    cast = _Cast()
    for layer in model.modules():
        if type(layer) is lora.Linear and type(layer.base_layer) in (nn.Linear, Conv1D):
            layer.__dict__["forward"] = types.MethodType(_forward, layer)
            layer.__dict__["_cast"] = cast


def _forward(layer: Any, inputs: Tensor, *args: Any, **options: Any) -> Any:
    own = functools.partial(type(layer).forward, layer, inputs, *args, **options)
    device = inputs.device.type
    is_cast = torch.is_autocast_enabled(device)
    name = _plain_adapter(layer) if is_cast or torch.is_grad_enabled() else None
    if name is None or args or options:
        return own()
    base = layer.base_layer
    weight = base.weight.T if type(base) is Conv1D else base.weight
    down = layer.lora_A[name].weight
    up = layer.lora_B[name].weight
    dtype = torch.get_autocast_dtype(device) if is_cast else weight.dtype
    if not is_cast and not inputs.dtype == down.dtype == dtype:
        return own()
    with torch.autocast(device, enabled=False):
        states = layer._cast(inputs, dtype)
        return _WithLowRank.apply(inputs, states, weight, base.bias, down, up, layer.scaling[name])


def _plain_adapter(layer: Any) -> str | None:
    """Returns the name of a layer's only active adapter if it is a plain one on a frozen layer, else None."""
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    if len(names) != 1 or layer.disable_adapters or layer.merged:
        return None
    name = names[0]
    dropout = layer.lora_dropout[name]
    parts = (layer.base_layer, layer.lora_A[name], layer.lora_B[name])
    is_plain = (
        name not in layer.lora_variant
        and layer.lora_B[name].bias is None
        and not (layer.training and getattr(dropout, "p", 0.0) > 0)
        and not any(weight.requires_grad for weight in layer.base_layer._parameters.values() if weight is not None)
        # No part has its forward replaced, by a hook that moves weights or a scoring head, or has shards.
        and not any("forward" in vars(part) for part in parts)
        and all(type(part.weight) is nn.Parameter and part.weight.dim() == 2 for part in parts)
    )
    return name if is_plain else None
