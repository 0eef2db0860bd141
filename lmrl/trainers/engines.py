"""Engines that spread weights over the processes (DDP, ZeRO, FSDP), and vLLM, which holds a copy of them."""

import dataclasses
import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import is_peft_model
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from transformers import PreTrainedModel
from trl.distributed import DistributedBackend
from trl.generation.vllm_generation import VLLMGeneration
from trl.models import prepare_deepspeed, prepare_fsdp, unwrap_model_for_generation

from lmrl.models import DecodingWeights, neutral_generation_config, tied_targets


def base_model(model: Any, accelerator: Accelerator) -> PreTrainedModel:
    """Returns the policy as a plain model: out of its engine, and out of PEFT's wrapper."""
    unwrapped = accelerator.unwrap_model(model)
    return unwrapped.get_base_model() if is_peft_model(unwrapped) else unwrapped


@contextmanager
def gathered_policy(
    model_wrapped: Any, accelerator: Accelerator, gradient_checkpointing_kwargs: dict[str, Any] | None = None
) -> Iterator[PreTrainedModel]:
    """
    Yields the policy out of its engine, with all its weights on every process and on the device that trains, as for
    [`~PolicyGradientTrainer.gathered_policy`]. A model that is loaded within is complete too. What is done to the
    weights in it is lost where they are shards.
    """
    with ExitStack() as stack:
        if DistributedBackend(accelerator).is_zero3:
            stack.enter_context(zero3_init_disabled())
        options = {"gradient_checkpointing_kwargs": gradient_checkpointing_kwargs}
        model = stack.enter_context(unwrap_model_for_generation(model_wrapped, accelerator, **options))
        stack.enter_context(_zero3_forward_check_disabled(model_wrapped))
        stack.enter_context(unsharded(model, accelerator.state))
        stack.enter_context(_on_device(model, accelerator.device))
        # Accelerate leaves autocast on it once training has begun: before and after would differ in precision.
        if "_original_forward" in vars(model):
            stack.callback(setattr, model, "forward", model.forward)
            model.forward = model._original_forward
        yield model


@contextmanager
def zero3_init_disabled() -> Iterator[None]:
    """`from_pretrained` loads complete models, as if DeepSpeed's ZeRO-3 were not there."""
    from transformers.integrations import deepspeed

    reference = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = reference


@contextmanager
def _zero3_forward_check_disabled(engine: Any) -> Iterator[None]:
    """ZeRO-3 compares the processes whenever a forward begins, with a hook that TRL 1.16 leaves in place."""
    offload = getattr(getattr(engine, "optimizer", None), "parameter_offload", None)
    if offload is None:
        yield
        return
    hooks = offload.module._forward_pre_hooks
    hook_id = offload.fwd_pre_hook.id
    hook = hooks.pop(hook_id)
    try:
        yield
    finally:
        hooks[hook_id] = hook


@contextmanager
def unsharded(model: Any, state: Any) -> Iterator[None]:
    """
    Gathers every weight of a model under `fully_shard` on every process, with no communication in its forward nor in
    `generate`. A model without shards is left as it is. The FSDP plugin in `state` has whether a layer's forward ends
    with shards again.
    """
    units = [module for module in model.modules() if isinstance(module, FSDPModule)]
    if not units:
        yield
        return
    units[0]._get_fsdp_state()._lazy_init()  # else the first layer that runs takes itself for the root
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    # Trainer registers `generate` as a forward of FSDP's, after which the root would be shards again, and transformers
    # has the processes wait for each other at every token where it sees FSDP.
    registered = vars(model).pop("generate", None)
    vars(model)["generate"] = functools.partial(type(model).generate, model, synced_gpus=False)
    try:
        yield
    finally:
        del vars(model)["generate"]
        if registered is not None:
            vars(model)["generate"] = registered
        for unit in units:
            unit.reshard()
            unit.set_reshard_after_forward(bool(state.fsdp_plugin.reshard_after_forward), recurse=False)
        # What is left to the root is needed again as soon as the backward pass begins.
        units[0].set_reshard_after_forward(False, recurse=False)


@contextmanager
def _on_device(model: nn.Module, device: torch.device) -> Iterator[None]:
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


@contextmanager
def decoding_policy(
    policy: PreTrainedModel, model_wrapped: Any, accelerator: Accelerator, weights: DecodingWeights | None, args: Any
) -> Iterator[None]:
    """
    Prepares the policy for sampling: its weights at hand, in 16 bits if it trains so, and no generation settings
    that change the distribution. Without `weights`, vLLM samples with its own.
    """
    backend = DistributedBackend(accelerator)
    is_spread = len(set(getattr(policy, "hf_device_map", {}).values())) > 1  # by hooks of Accelerate on its forward
    with ExitStack() as stack:
        if weights is None:
            pass
        elif backend.is_fsdp:  # under ZeRO-3 TRL gathers the weights
            stack.enter_context(gathered_policy(model_wrapped, accelerator))
        elif not backend.is_zero3 and not is_spread:
            stack.enter_context(weights.replacing(policy))
        stack.enter_context(neutral_generation_config(policy))
        # Continuous batching in TRL 1.16 casts the weights for good, and leaves the policy in training mode.
        stack.callback(vars(args).update, bf16=args.bf16, fp16=args.fp16)
        stack.callback(model_wrapped.train, model_wrapped.training)
        vars(args).update(bf16=False, fp16=False)
        yield


def keep_outputs_in_fp32(accelerator: Accelerator) -> None:
    """Has FSDP2 neither round what leaves a forward to 16 bits, nor average gradients in them."""
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None and isinstance(plugin.mixed_precision_policy, MixedPrecisionPolicy):
        plugin.mixed_precision_policy = dataclasses.replace(
            plugin.mixed_precision_policy, output_dtype=None, reduce_dtype=torch.float32
        )


def match_dtype(critic: nn.Module | None, policy: PreTrainedModel, accelerator: Accelerator) -> None:
    """Gives a critic the policy's dtype under ZeRO-3: shards are in one buffer. The optimizer has them in float32."""
    if critic is not None and DistributedBackend(accelerator).is_zero3:
        for weight in critic.parameters():
            weight.data = weight.data.to(policy.dtype)


def prepare_frozen(model: Any, accelerator: Accelerator) -> Any:
    """Returns a model that is not trained, under the engine of the policy."""
    if accelerator.state.deepspeed_plugin is not None:
        return prepare_deepspeed(model, accelerator)
    if DistributedBackend(accelerator).is_fsdp:
        return prepare_fsdp(model, accelerator)
    return accelerator.prepare_model(model, evaluation_mode=True)


def is_sharded(accelerator: Accelerator) -> bool:
    """Returns whether every process has a part of each weight only."""
    backend = DistributedBackend(accelerator)
    return backend.is_zero3 or backend.is_fsdp


def send_policy_to_vllm(generation: VLLMGeneration) -> None:
    """
    Makes TRL send vLLM the weights of the policy without its critic, which vLLM has none of, and leave the base of
    adapters as it is. Raises a `ValueError` if the policy with its adapters is not of the base's kind, which vLLM has.
    """
    model: Any = generation.model
    all_params = generation._iter_named_params
    if is_peft_model(model):
        trains_tokens = getattr(model.active_peft_config, "trainable_token_indices", None)
        if tied_targets(model) or trains_tokens or getattr(model.get_base_model(), "is_quantized", False):
            raise ValueError(
                "`use_vllm` must be False for adapters on quantized weights, on weights that are tied to the LM head, "
                "or with `trainable_token_indices`, got True. vLLM has the plain model: use LoRA on its layers only."
            )

    def policy_params() -> Iterator[tuple[str, Tensor]]:
        """Iterates over all: under ZeRO-3 each weight is gathered, on every process, as it is passed."""
        # TRL merges adapters in place and out again. In bfloat16 both round: the base would drift with each time.
        base = [weight for name, weight in model.named_parameters() if ".base_layer." in name]
        kept = [weight.detach().to("cpu", copy=True) for weight in base]
        yield from ((name, weight) for name, weight in all_params() if not name.startswith("critic."))
        for weight, value in zip(base, kept, strict=True):
            weight.data.copy_(value)

    generation._iter_named_params = policy_params
