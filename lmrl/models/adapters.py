"""A second LoRA adapter on a policy's layers: the critic's own."""

import copy
import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel


class LowRank(nn.Module):
    """
    What LoRA adds to the output of a linear layer: `scaling * up(down(x))`.

    Args:
        down (`torch.nn.Module`):
            From the layer's input to the rank.
        up (`torch.nn.Module`):
            From the rank to the layer's output.
        scaling (`float`):
            Factor of both.
    """

    def __init__(self, down: nn.Module, up: nn.Module, scaling: float) -> None:
        super().__init__()
        self.down, self.up, self.scaling = down, up, scaling

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns the addition, in the precision of the weights or of autocast."""
        weight: Any = self.down.weight
        states: Tensor = self.up(self.down(inputs.to(weight.dtype)))
        return states * self.scaling


class TrunkAdapter(nn.Module):
    """
    A second LoRA adapter on the layers of a policy that is trained with LoRA, at first a copy of the policy's.

    It works only within [`~TrunkAdapter.active`], where the policy's own adapters do not. PEFT knows nothing of it:
    what PEFT saves, merges, freezes or turns off when it goes over its adapters are the policy's.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Policy with LoRA layers, the base model inside PEFT's wrapper.

    Raises:
        ValueError: If it has no LoRA layers, or others than plain ones on linear layers.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        from peft.tuners.lora import LoraLayer
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import AuxiliaryTrainingWrapper

        wrappers = (BaseTunerLayer, AuxiliaryTrainingWrapper)
        # In dictionaries: these layers are part of the policy, and not of this module.
        self._off = {name: layer for name, layer in model.named_modules() if isinstance(layer, wrappers)}
        self._targets = {_key(name): layer for name, layer in self._off.items() if isinstance(layer, LoraLayer)}
        if not self._targets:
            raise ValueError(
                "critic='adapter' is a LoRA adapter beside the policy's, and the policy has none: give a LoRA "
                "configuration (use_peft=True in a recipe), or take critic='shared' or critic='separate'."
            )
        self.layers = nn.ModuleDict({name: _copied(name, layer) for name, layer in self._targets.items()})
        self._model = (model,)

    @contextmanager
    def active(self) -> Iterator[None]:
        """
        Let the policy's layers work with this adapter in place of their own.

        Gradient checkpointing runs layers again in the backward pass, after this context: those that were run in it
        are run again in another one. That needs the checkpoints that are not reentrant.
        """
        with ExitStack() as stack:
            for layer in self._off.values():
                stack.enter_context(_replaced(layer, "_disable_adapters", True))
            for name, layer in self._targets.items():
                stack.enter_context(_added(layer, self.layers[name]))
            for module in self._model[0].modules():
                if getattr(module, "gradient_checkpointing", False):
                    again = functools.partial(module._gradient_checkpointing_func, context_fn=self._contexts)
                    stack.enter_context(_replaced(module, "_gradient_checkpointing_func", again))
            yield

    def _contexts(self) -> tuple[Any, Any]:
        """Those of a checkpoint's forward pass, which is in one already, and of its repetition."""
        return nullcontext(), self.active()


def _key(name: str) -> str:
    return name.replace(".", "/")  # no name in a ModuleDict may have a dot


def _copied(name: str, layer: Any) -> LowRank:
    active = layer.active_adapters[0]
    if active not in layer.lora_A or active in layer.lora_variant:
        raise ValueError(
            f"critic='adapter' needs plain LoRA on linear layers, and the policy's {name.replace('/', '.')!r} is "
            "none (an embedding, a convolution, DoRA ...). Choose other lora_target_modules, or take critic='shared'."
        )
    parts = copy.deepcopy(layer.lora_A[active]), copy.deepcopy(layer.lora_B[active])
    return LowRank(*parts, layer.scaling[active]).requires_grad_(True)


def upcast_adapters_to_fp32(model: nn.Module) -> None:
    """
    Put what is trained on a quantised base into float32, where TRL has rounded it to bfloat16.

    Args:
        model (`torch.nn.Module`):
            Any model; those that are not quantised are left as they are.
    """
    if getattr(model, "is_quantized", False):
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    kept = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, kept)


@contextmanager
def _added(layer: nn.Module, addition: nn.Module) -> Iterator[None]:
    handle = layer.register_forward_hook(lambda _, inputs, output: output + addition(inputs[0]).to(output.dtype))
    try:
        yield
    finally:
        handle.remove()
