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
    Yields the policy out of its engine, with all its weights on every process and on the device that trains, as for
    [`~PolicyGradientTrainer.gathered_policy`]. A model that is loaded within is complete too. What is done to the
    weights in it is lost where they are shards. The graphs of `weights` give back their memory.
    """
    with ExitStack() as stack:
        if weights is not None:
            weights.graphs.clear()
        if DistributedBackend(accelerator).is_zero3:  # models are loaded as if it were not there
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
        # Accelerate leaves autocast on it once training has begun: before and after would differ in precision.
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
    Prepares the policy for sampling: its weights at hand, in 16 bits if it trains so, and no generation settings
    that change the distribution. Without `weights`, vLLM samples with its own. Log-probabilities go into `record`.
    """
    backend = DistributedBackend(accelerator)
    is_spread = len(set(getattr(policy, "hf_device_map", {}).values())) > 1  # by hooks of Accelerate on its forward
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


def send_policy_to_vllm(generation: VLLMGeneration, record: Drawn | None = None) -> None:
    """
    Makes TRL send vLLM the weights of the policy without its critic, which vLLM has none of, and leave the base of
    adapters as it is. Log-probabilities of what it samples go into `record`. Raises a `ValueError` if the policy with
    its adapters is not of the base's kind, which vLLM has.
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
    if record is not None:
        recording_vllm(record, generation)
