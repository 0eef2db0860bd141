"""Parts of a policy with LoRA: a second adapter for its critic, quantised and tied weights, a shared base."""

import copy
import functools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lmrl.utils import replaced

# Models with kernels that read the weight of `out_proj` past the layer, where PEFT refuses an adapter.
_WITH_MAMBA_KERNELS = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")


class LowRank(nn.Module):
    """The term that LoRA adds to the output of a linear layer: `scaling * up(down(x))`."""

    def __init__(self, down: nn.Module, up: nn.Module, scaling: float) -> None:
        super().__init__()
        self.down = down
        self.up = up
        self.scaling = scaling

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns the term to be added, in the precision of the weights or of autocast."""
        weight: Any = self.down.weight
        states: Tensor = self.up(self.down(inputs.to(weight.dtype)))
        return states * self.scaling


class TrunkAdapter(nn.Module):
    """
    A second LoRA adapter on the layers of a policy that is trained with LoRA, initialized as a copy of the first.

    It is applied only within [`~TrunkAdapter.active`], where the policy's own adapters are turned off. It is not
    registered with PEFT, so PEFT saves, merges, freezes and disables the policy's adapters only.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Policy with LoRA layers, the base model inside PEFT's wrapper.

    Raises:
        ValueError: If the policy has no LoRA layers, or LoRA layers that are not plain ones on linear layers.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        wrappers = (BaseTunerLayer, AuxiliaryTrainingWrapper)
        # In dictionaries, so that the policy's layers are not registered as submodules here.
        self._off = {name: layer for name, layer in model.named_modules() if isinstance(layer, wrappers)}
        # No name in a ModuleDict may have a dot.
        adapted = {name.replace(".", "/"): layer for name, layer in self._off.items() if isinstance(layer, LoraLayer)}
        self._targets = adapted
        if not self._targets:
            raise ValueError(
                "`critic` must be 'shared' or 'separate' for a policy without LoRA layers, got 'adapter', a second "
                "LoRA adapter. Pass a `peft_config` (`--use_peft` in a recipe), or change `critic`."
            )
        self.layers = nn.ModuleDict({name: _copied(name, layer) for name, layer in self._targets.items()})
        self._model = (model,)

    @contextmanager
    def active(self) -> Iterator[None]:
        """
        Applies this adapter in the policy's layers, in place of their own.

        Gradient checkpointing runs layers a second time in the backward pass, when this context has been left: layers
        that ran inside it then run in a new one. This requires checkpointing that is not reentrant.
        """
        with ExitStack() as stack:
            for layer in self._off.values():
                stack.enter_context(replaced(layer, "_disable_adapters", True))
            for name, layer in self._targets.items():
                stack.enter_context(_added(layer, self.layers[name]))
            for module in self._model[0].modules():
                if getattr(module, "gradient_checkpointing", False):
                    again = functools.partial(module._gradient_checkpointing_func, context_fn=self._contexts)
                    stack.enter_context(replaced(module, "_gradient_checkpointing_func", again))
            yield

    def _contexts(self) -> tuple[Any, Any]:
        """Returns the contexts of a checkpointed forward, which is in an active one, and of its recomputation."""
        return nullcontext(), self.active()


def _copied(name: str, layer: Any) -> LowRank:
    active = layer.active_adapters[0]
    if active not in layer.lora_A or active in layer.lora_variant or isinstance(layer, ParamWrapper):
        raise ValueError(
            "`critic='adapter'` must be used with plain LoRA on linear layers, got a policy with another kind (an "
            f"embedding, experts, DoRA ...) at {name.replace('/', '.')!r}. Choose other `lora_target_modules`, "
            "or `critic='shared'`."
        )
    down = copy.deepcopy(layer.lora_A[active])
    up = copy.deepcopy(layer.lora_B[active])
    return LowRank(down, up, layer.scaling[active]).requires_grad_(True)


def base_of(model: Any) -> Any:
    """Returns the model inside PEFT's wrapper, or a model without one as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def backbone_of(model: PreTrainedModel) -> PreTrainedModel:
    """Returns the part of a model that computes hidden states. (In Llama 4 `base_model` is the model itself.)"""
    backbone = model.base_model
    return model.model if backbone is model else backbone


def upcast_adapters_to_fp32(model: nn.Module) -> None:
    """
    Casts the trainable weights on a quantised base to float32, as TRL has rounded them to bfloat16. Call it before an
    engine wraps the model: autograd drops the hooks on the gradient of a weight whose data changes its type.
    """
    if getattr(model, "is_quantized", False):
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()


def tied_targets(model: nn.Module) -> dict[str, nn.Module]:
    """
    Returns the layers under adapters, by name, whose weight is also that of another module, such as the LM head.

    Merged into the weight, such an adapter would change the other module too, which it did not when it was trained.
    """
    holders = Counter(id(module._parameters.get("weight")) for module in model.modules())
    del holders[id(None)]  # of modules without a weight of this name, such as stacked experts
    layers = {name: module.get_base_layer() for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    return {name: layer for name, layer in layers.items() if holders[id(layer._parameters.get("weight"))] > 1}


def untie_targets(model: PreTrainedModel) -> None:
    """Gives each layer of [`tied_targets`] a weight of its own, for a merge; the config no longer ties weights."""
    layers: dict[str, Any] = tied_targets(model)
    for layer in layers.values():
        layer.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=layer.weight.requires_grad)
        model.config.tie_word_embeddings = False
        model.config.get_text_config().tie_word_embeddings = False


def adapter_config(model: PreTrainedModel, peft_config: Any) -> Any:
    """
    Returns the configuration of a policy's adapter: that of the adapter it has, else the given one for a new adapter.
    A `ValueError` if it would get a second adapter, or has one under a name that TRL does not find.
    """
    present = getattr(model, "peft_config", None)
    if present is None:
        return peft_config
    if peft_config is not None:
        raise ValueError(
            "`peft_config` must be None for a policy that has an adapter, which is trained further, got a "
            f"{type(peft_config).__name__}. Leave it out, or merge the adapter first."
        )
    if "default" not in present:
        raise ValueError(
            f"`model` must have its adapter under the name 'default', got {list(present)}. Load it without "
            "`adapter_name`."
        )
    return present["default"]


def _added(layer: nn.Module, addition: nn.Module) -> RemovableHandle:
    return layer.register_forward_hook(lambda _, inputs, output: output + addition(inputs[0]).to(output.dtype))


def linear_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Returns a model's linear layers by name, without its LM head and layers that an adapter trains in full."""
    wrapped = [module for module in model.modules() if isinstance(module, AuxiliaryTrainingWrapper)]
    left_out = {id(part) for module in wrapped for part in module.modules()}
    left_out.add(id(model.get_output_embeddings()))
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear | Conv1D)}
    return {name: layer for name, layer in layers.items() if id(layer) not in left_out}


def expert_parameters(model: nn.Module) -> list[str]:
    """Returns the name endings of weights that stack matrices of several experts, and so are no linear layers."""
    names = [
        f"{name.rpartition('.')[2]}.{weight_name}"
        for name, module in model.named_modules()
        for weight_name, weight in module.named_parameters(recurse=False)
        if weight.dim() == 3 and min(weight.shape) > 1 and not isinstance(module, nn.Conv1d)
    ]
    return sorted(set(names))


def check_lora_targets(
    model: PreTrainedModel, targets: str | list[str], parameters: Iterable[str] | None = None
) -> None:
    """
    Raises a `ValueError` for a target of a new adapter that the model lacks; PEFT ignores one such name among several.

    `targets` is `lora_target_modules`: names, a pattern of complete names, or `all-linear`; `parameters` is
    `lora_target_parameters`: weights that are no layers. The message has the names of the model's linear layers, or of
    experts that `all-linear` would leave out.
    """
    head = model.get_output_embeddings()
    layers = {name: layer for name, layer in model.named_modules() if layer is not head}
    linear = sorted({name.rpartition(".")[2] for name in linear_layers(model)})
    none = "It has no linear layers: leave out `use_peft`, and train all of its weights."
    remedy = f"Its linear layers are {', '.join(linear)}; all-linear takes all of them." if linear else none
    if targets == "all-linear" and not parameters and (experts := expert_parameters(model)):
        raise ValueError(
            "`lora_target_parameters` must name the experts, which are no linear layers, where all of these get LoRA, "
            f"got none. Give {' '.join(experts)}, or name the layers in `lora_target_modules`: {', '.join(linear)}."
        )
    if model.config.model_type in _WITH_MAMBA_KERNELS and (targets == "all-linear" or "out_proj" in targets):
        others = " ".join(name for name in linear if name != "out_proj")
        raise ValueError(
            f"`lora_target_modules` must leave out 'out_proj' of a {type(model).__name__}, whose kernels read its "
            f"weight without an adapter, got {targets!r}. Give {others}."
        )
    if targets == "all-linear":
        targets = [] if linear else [targets]
    if isinstance(targets, str):
        try:
            targets = [] if any(re.fullmatch(targets, name) for name in layers) else [targets]
        except re.error as error:
            raise ValueError(
                f"`lora_target_modules` must be names or a regular expression, got {targets!r} ({error}). {remedy}"
            ) from error
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in layers):
            raise ValueError(f"`lora_target_modules` must name layers of the model, got {target!r}. {remedy}")
