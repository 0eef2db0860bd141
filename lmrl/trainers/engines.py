"""Where an engine spreads the weights over the processes: the whole model on each of them, for a while."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel
from trl.generation.vllm_generation import VLLMGeneration
from trl.models import unwrap_model_for_generation

if TYPE_CHECKING:
    from .metrics import MeasuredTrainer


@contextmanager
def gathered_policy(trainer: "MeasuredTrainer") -> Iterator[PreTrainedModel]:
    """
    Yields the policy out of its engine, with all its weights on every process and on the device that trains.

    In it a process may run the policy as often as it likes, without the others, and a model that is loaded is whole
    too. All processes must enter and leave it together. What is done to the weights in it is lost where they are
    shards.

    Args:
        trainer ([`MeasuredTrainer`]):
            Trainer before, in or after training.
    """
    with ExitStack() as stack:
        if trainer._dist.is_zero3:
            stack.enter_context(loading_whole())
        model = stack.enter_context(unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator))
        stack.enter_context(_out_of_step(trainer.model_wrapped))
        stack.enter_context(unsharded(model, trainer.accelerator.state))
        stack.enter_context(_on_device(model, trainer.accelerator.device))
        yield model


@contextmanager
def loading_whole() -> Iterator[None]:
    """`from_pretrained` loads whole models, as if DeepSpeed's ZeRO-3 were not there."""
    from transformers.integrations import deepspeed

    reference = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = reference


@contextmanager
def _out_of_step(engine: Any) -> Iterator[None]:
    """ZeRO-3 compares the processes whenever a forward begins, with a hook that TRL 1.16 leaves in place."""
    offload = getattr(getattr(engine, "optimizer", None), "parameter_offload", None)
    if offload is None:
        yield
        return
    hooks, place = offload.module._forward_pre_hooks, offload.fwd_pre_hook.id
    hook = hooks.pop(place)
    try:
        yield
    finally:
        hooks[place] = hook


@contextmanager
def unsharded(model: nn.Module, state: Any) -> Iterator[None]:
    """
    Have every weight of a model under `fully_shard` on every process, and no communication in its forward.

    Args:
        model (`torch.nn.Module`):
            Any model; one without shards is left as it is.
        state ([`~accelerate.state.AcceleratorState`]):
            Knows whether shards are made again after the forward of a layer.
    """
    units = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.reshard()
            unit.set_reshard_after_forward(bool(state.fsdp_plugin.reshard_after_forward), recurse=False)
        for root in units[:1]:  # what is left to the root is needed again as soon as the backward pass begins
            root.set_reshard_after_forward(False, recurse=False)


@contextmanager
def _on_device(model: nn.Module, device: Any) -> Iterator[None]:
    """Trainer leaves the model where it was until DeepSpeed or FSDP takes it, when training begins."""
    before = next(model.parameters()).device
    if before == device or hasattr(model, "hf_device_map"):
        yield
        return
    model.to(device)
    try:
        yield
    finally:
        model.to(before)


def push_policy_only(generation: VLLMGeneration) -> None:
    """
    Keep the critic, a part of the policy's module, out of the weights that TRL sends to vLLM, which knows none.

    Args:
        generation ([`~trl.generation.vllm_generation.VLLMGeneration`]):
            The trainer's.
    """
    everything = generation._iter_named_params

    def of_policy() -> Iterator[tuple[str, Tensor]]:
        """Walks over all: under ZeRO-3 each weight comes together, on every process, as it is passed."""
        return ((name, weight) for name, weight in everything() if not name.startswith("critic."))

    generation._iter_named_params = of_policy
