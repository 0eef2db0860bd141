"""Engines that spread weights over the processes (DDP, ZeRO, FSDP), and vLLM, which holds a copy of them."""

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import is_peft_model
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import PreTrainedModel
from transformers.integrations import deepspeed
from trl.distributed import DistributedBackend
from trl.generation.vllm_generation import VLLMGeneration
from trl.models import prepare_deepspeed, prepare_fsdp, unwrap_model_for_generation

from lmrl.distributed import unsharded
from lmrl.drawn import Drawn, recording_batches, recording_vllm
from lmrl.models import DecodingWeights, neutral_generation_config, sampling_together, tied_targets


@contextmanager
def gathered_policy(
    model_wrapped: Any, accelerator: Accelerator, args: Any, weights: DecodingWeights | None = None
) -> Iterator[PreTrainedModel]:
    """
    Yields the policy out of its engine, with all its weights on every process and on the device that trains: see
    [`~PolicyGradientTrainer.gathered_policy`]. Models that are loaded within the context are not sharded either.
    Changes to weights that are shards are lost afterwards. The memory of the graphs in `weights` is freed.
    """
    with ExitStack() as stack:
        if weights is not None:
            weights.graphs.clear()
        if DistributedBackend(accelerator).is_zero3:  # so that models loaded within are not sharded
            config = deepspeed._hf_deepspeed_config_weak_ref
            stack.callback(setattr, deepspeed, "_hf_deepspeed_config_weak_ref", config)
            deepspeed.unset_hf_deepspeed_config()
        options = {"gradient_checkpointing_kwargs": args.gradient_checkpointing_kwargs}
        model = stack.enter_context(unwrap_model_for_generation(model_wrapped, accelerator, **options))
        # ZeRO-3 compares the processes whenever a forward begins, with a hook that TRL 1.16 leaves in place.
        offload = getattr(getattr(model_wrapped, "optimizer", None), "parameter_offload", None)
        if offload is not None:
            hooks = offload.module._forward_pre_hooks
            hook_id = offload.fwd_pre_hook.id
            stack.callback(hooks.__setitem__, hook_id, hooks.pop(hook_id))
        plugin = getattr(accelerator.state, "fsdp_plugin", None)
        stack.enter_context(unsharded(model, bool(plugin and plugin.reshard_after_forward)))
        # Trainer leaves the model where it was until DeepSpeed or FSDP takes it, when training begins.
        device = next(model.parameters()).device
        if device != accelerator.device and not hasattr(model, "hf_device_map"):
            stack.callback(model.to, device)
            model.to(accelerator.device)
        # Once training has begun, Accelerate's autocast is part of the forward: precision would change.
        if "_original_forward" in vars(model):
            stack.callback(setattr, model, "forward", model.forward)
            model.forward = model._original_forward
        yield model


@contextmanager
def decoding_policy(
    policy: PreTrainedModel,
    model_wrapped: Any,
    accelerator: Accelerator,
    weights: DecodingWeights | None,
    args: Any,
    record: Drawn | None = None,
) -> Iterator[None]:
    """
    Prepares the policy for sampling: complete weights, in 16 bits under mixed precision, and no generation settings
    that change the distribution. Without `weights` vLLM samples, with its own. `record` gets log-probabilities.
    """
    backend = DistributedBackend(accelerator)
    is_spread = len(set(getattr(policy, "hf_device_map", {}).values())) > 1  # over devices, by Accelerate's hooks
    with ExitStack() as stack:
        if weights is None:
            pass
        elif backend.is_fsdp:  # under ZeRO-3 TRL gathers the weights
            stack.enter_context(gathered_policy(model_wrapped, accelerator, args))
        elif not backend.is_zero3 and not is_spread:
            stack.enter_context(weights.replacing(policy))
        stack.enter_context(neutral_generation_config(policy))
        stack.enter_context(sampling_together(policy, record, weights.graphs if weights else None))
        stack.enter_context(recording_batches(record, policy))
        # Continuous batching in TRL 1.16 casts weights for good (bf16, fp16), and leaves the policy in training mode.
        stack.callback(vars(args).update, bf16=args.bf16, fp16=args.fp16)
        stack.callback(model_wrapped.train, model_wrapped.training)
        vars(args).update(bf16=False, fp16=False)
        yield


def keep_outputs_in_fp32(accelerator: Accelerator) -> None:
    """Makes FSDP2 leave the outputs of a forward in their precision, and average gradients in float32."""
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None and isinstance(plugin.mixed_precision_policy, MixedPrecisionPolicy):
        plugin.mixed_precision_policy = dataclasses.replace(
            plugin.mixed_precision_policy, output_dtype=None, reduce_dtype=torch.float32
        )


def match_dtype(critic: nn.Module | None, policy: PreTrainedModel, accelerator: Accelerator) -> None:
    """Casts a critic to the policy's dtype under ZeRO-3, whose shards share a buffer (float32 in the optimizer)."""
    if critic is not None and DistributedBackend(accelerator).is_zero3:
        for weight in critic.parameters():
            weight.data = weight.data.to(policy.dtype)


def prepare_frozen(model: Any, accelerator: Accelerator) -> Any:
    """Returns a frozen model, prepared for the engine that the policy runs under."""
    if accelerator.state.deepspeed_plugin is not None:
        return prepare_deepspeed(model, accelerator)
    if DistributedBackend(accelerator).is_fsdp:
        return prepare_fsdp(model, accelerator)
    return accelerator.prepare_model(model, evaluation_mode=True)


def is_sharded(accelerator: Accelerator) -> bool:
    """Returns whether each process holds only a part of each weight."""
    backend = DistributedBackend(accelerator)
    return backend.is_zero3 or backend.is_fsdp


def send_policy_to_vllm(generation: VLLMGeneration, record: Drawn | None = None) -> None:
    """
    Makes TRL send vLLM the policy's weights without the critic's, which vLLM does not know, and leave the base under
    adapters unchanged. The log-probabilities of what vLLM samples go into `record`. Raises a `ValueError` if the
    policy, with its adapters merged, is not a plain model of the base's kind, as vLLM has only that.
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
        """Yields the weights. Each process must iterate over all: ZeRO-3 gathers each weight when it is reached."""
        # TRL merges adapters in place and out again. In bfloat16 both round: the base would drift with each time.
        base = [weight for name, weight in model.named_parameters() if ".base_layer." in name]
        kept = [weight.detach().to("cpu", copy=True) for weight in base]
        yield from ((name, weight) for name, weight in all_params() if not name.startswith("critic."))
        for weight, value in zip(base, kept, strict=True):
            weight.data.copy_(value)

    generation._iter_named_params = policy_params
    if record is not None:
        recording_vllm(record, generation)
