"""The policy and its rows, from the arguments of a recipe."""

import logging
import re
from collections.abc import Iterable
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lmrl import models
from lmrl.data import demo_model_path, load_splits
from lmrl.models import check_lora_targets, context_length, linear_layers
from lmrl.settings import follow_lora
from lmrl.utils import known_as

logger = logging.getLogger(__name__)

NO_LIMIT = 10**9  # context in tokens of a model that states no limit


def load_policy(model_args: Any, config: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    Returns the policy to train and its tokenizer.

    Args:
        model_args ([`~lmrl.arguments.ModelArguments`]):
            The model, its precision, its quantization. Without a name it is lmrl's demo model.
        config (`transformers.TrainingArguments`):
            Configuration of the trainer, which has `trust_remote_code`.

    Raises:
        ValueError: If there is no such model or tokenizer, if it is an adapter on fewer layers than the arguments
            name, or if a new adapter is to be on layers that the model does not have.
    """
    options = model_source(model_args, config) | model_args.loading(bf16=config.bf16)
    with known_as("model_name_or_path"):
        shown = getattr(config, "visible_tokens", None)  # supervised training has none
        model, tokenizer = models.load_policy(model_name(model_args), None, shown, **options)
    _list_tied_weights(model)
    has_adapter = hasattr(model, "peft_config")  # an adapter that is trained further
    if has_adapter and model_args.lora_target_modules == "all-linear" and (left_out := layers_without_adapter(model)):
        raise ValueError(
            "`lora_target_modules` must be those of the adapter that is trained further, got all-linear, and "
            f"{left_out[0]} and {len(left_out) - 1} others have none. Leave it out."
        )
    if model_args.use_peft and not has_adapter:
        check_lora_targets(model, model_args.lora_target_modules, model_args.lora_target_parameters)
    if model_args.use_peft or has_adapter:
        follow_lora(config)
    if not model_args.use_peft:  # LoRA trains its own weights, in float32
        rate = config.full_learning_rate if config.learning_rate is None else config.learning_rate
        _warn_if_weights_are_too_coarse(model, rate)
    return model, tokenizer


def _list_tied_weights(model: PreTrainedModel) -> None:
    """Marks tied weights as not saved, so that Trainer does not warn that checkpoints lack them."""
    weights = dict(model.named_parameters(remove_duplicate=False))
    tied = [
        name
        for name, source in getattr(model, "all_tied_weights_keys", {}).items()
        if name in weights and weights[name] is weights.get(source)
    ]
    if tied:
        model._keys_to_ignore_on_save = {*(model._keys_to_ignore_on_save or ()), *tied}


def _warn_if_weights_are_too_coarse(model: PreTrainedModel, learning_rate: float) -> None:
    """Warns if most trained weights are in 16 bits and so large that a step of AdamW rounds to nothing."""
    weights = [weight for weight in model.parameters() if weight.requires_grad and weight.dtype.itemsize == 2]
    if any(weight.numel() for weight in weights):  # ZeRO-3: all empty here, and a float32 optimizer
        # A step is about the learning rate, and is lost below half of the distance to the next number (> |w| eps / 4).
        eps = torch.finfo(weights[0].dtype).eps
        fixed = sum(int((weight.detach().abs() * (eps / 4) > learning_rate).sum()) for weight in weights)
        share = fixed / sum(weight.numel() for weight in weights)
        if share > 0.5:
            logger.warning(
                f"`learning_rate` is {learning_rate:g}, and a step of that size rounds to nothing for {share:.0%} of "
                f"the weights in {weights[0].dtype}. Load them in float32 (`--dtype float32`, with `--bf16 true` for "
                "the speed of bfloat16), train a LoRA adapter, or raise it."
            )


def load_rows(
    data_args: Any, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: Any
) -> tuple[Dataset, Dataset]:
    """
    Returns the training rows and the held-out rows, with prompts that leave room for a completion.

    Args:
        data_args ([`~lmrl.arguments.DataArguments`]):
            The data set, and how rows become prompts.
        model (`transformers.PreTrainedModel`), tokenizer (`transformers.PreTrainedTokenizerBase`):
            The policy and its tokenizer.
        config ([`~lmrl.trainers.PolicyGradientConfig`]):
            Configuration of the trainer, with the length of completions and the variables of the chat template.

    Raises:
        FileNotFoundError, ValueError: As [`~lmrl.data.load_splits`].
    """
    context = context_length(model) or NO_LIMIT
    room = context - int(config.max_completion_length)
    if room < 1:
        raise ValueError(
            f"`max_completion_length` must be below the model's context of {context} tokens, so that a prompt fits in "
            f"too, got {config.max_completion_length}. Lower it."
        )
    return load_splits(tokenizer, room, config.chat_template_kwargs, **vars(data_args))


def model_name(model_args: Any) -> str:
    """Returns the folder or hub id of the model to start from."""
    return str(model_args.model_name_or_path or demo_model_path())


def model_source(model_args: Any, config: Any) -> dict[str, Any]:
    """Returns the options of `from_pretrained` that state where a model comes from."""
    return {"revision": model_args.model_revision, "trust_remote_code": config.trust_remote_code}


def layers_without_adapter(model: PreTrainedModel) -> list[str]:
    """Returns the names of the [`linear_layers`] without a LoRA layer around them, except for a critic's."""
    from peft.tuners.lora import LoraLayer

    adapted = {id(part) for layer in model.modules() if isinstance(layer, LoraLayer) for part in layer.modules()}
    names = [name for name, layer in linear_layers(model).items() if id(layer) not in adapted]
    return [name for name in names if "critic" not in name.split(".")]


def layers_text(targets: str | Iterable[str] | None) -> str:
    """Returns an adapter's `target_modules` as text; a layer that all blocks have is named once: `h.*.attn.c_attn`."""
    names = [targets] if isinstance(targets, str) else targets or ()
    return ", ".join(sorted({re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in names}))
