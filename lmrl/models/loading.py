"""Loading of policies and tokenizers from a hub id or a folder, and their preparation for training."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lmrl.utils import reason_of

# Without any of these transformers 5.23 creates an empty tokenizer for some architectures (GPT-2, T5).
_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model"),
    *("vocab.json", "vocab.txt", "tekken.json"),
)


def load_tokenizer(name_or_path: str | Path, **kwargs: Any) -> PreTrainedTokenizerBase:
    """
    Returns the tokenizer of a causal language model, padding on the left.

    A tokenizer without a pad token gets its EOS as pad token. That is safe because every mask in lmrl is computed from
    lengths, none from `ids == pad`, so that an EOS which was generated still counts.

    Args:
        name_or_path (`str` or `Path`):
            Hub id or folder.
        **kwargs:
            Passed on to `AutoTokenizer.from_pretrained`, such as `revision`.

    Raises:
        ValueError: If there is no tokenizer, or one without an EOS.
    """
    folder = _check_folder(name_or_path)
    try:
        if folder is not None and not any((folder / file).is_file() for file in _TOKENIZER_FILES):
            raise OSError(f"the folder has none of {', '.join(_TOKENIZER_FILES)}")
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, padding_side="left", truncation_side="left", **kwargs)
        tokenizer.decode(tokenizer("a")["input_ids"])  # some damage shows only in use
    except Exception as error:  # a damaged folder may raise any exception
        raise ValueError(
            f"`name_or_path` must be a hub id or a folder with a tokenizer, got {str(name_or_path)!r}, from which "
            f"no tokenizer could be loaded ({reason_of(error)}). Save it there with "
            "`tokenizer.save_pretrained(folder)`."
        ) from error
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"The tokenizer of {str(name_or_path)!r} must have an EOS token, as no completion could end without it. "
            "Set `tokenizer.eos_token` to the token that ends a text and save the tokenizer again."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    name_or_path: str | Path,
    dtype: str | torch.dtype = "float32",
    trainable: bool = False,
    device: torch.device | None = None,
    **kwargs: Any,
) -> PreTrainedModel:
    """
    Returns a causal language model, or a LoRA adapter on its base.

    Args:
        name_or_path (`str` or `Path`):
            Hub id or folder of a model, or folder of an adapter (its base is then loaded from the place that the
            adapter's config names).
        dtype (`str` or `torch.dtype`, *optional*, defaults to `"float32"`):
            Precision of the weights.
        trainable (`bool`, *optional*, defaults to `False`):
            Whether an adapter is to be trained further. Otherwise it is merged into its base, which is faster, except
            into a quantised base (`quantization_config`), where the sum would be rounded.
        device (`torch.device`, *optional*):
            Device of the model. Quantised weights stay where they were loaded, on the current GPU if there is one.
        **kwargs:
            Passed on to `from_pretrained`, such as `revision` or `attn_implementation`.

    Raises:
        ValueError: If there is no causal language model.
    """
    folder = _check_folder(name_or_path)
    try:
        if folder is not None and (folder / "adapter_config.json").is_file():
            return _placed(_load_adapter(folder, trainable, dtype=dtype, **kwargs), device)
        model, info = AutoModelForCausalLM.from_pretrained(
            name_or_path, dtype=dtype, output_loading_info=True, **kwargs
        )
    except Exception as error:
        raise ValueError(
            "`name_or_path` must be a hub id, or a folder written by `save_pretrained`, got "
            f"{str(name_or_path)!r}, from which no causal language model could be loaded ({reason_of(error)}). Check "
            "the name."
        ) from error
    if missing := sorted(info["missing_keys"]):
        raise ValueError(
            f"`name_or_path` must be a causal language model with all its weights, got {str(name_or_path)!r} "
            f"without {missing[0]!r} ({len(missing)} are missing, and would be random). Do not pass a backbone or a "
            "classifier."
        )
    return _placed(model, device)


def load_backbone(name_or_path: str | Path, dtype: str | torch.dtype = "float32") -> PreTrainedModel:
    """
    Returns the backbone of a causal language model or a reward model, which is the model without its head.

    Args:
        name_or_path (`str` or `Path`):
            Hub id or folder.
        dtype (`str` or `torch.dtype`, *optional*, defaults to `"float32"`):
            Precision of the weights.

    Raises:
        ValueError: If there is no model.
    """
    _check_folder(name_or_path)
    try:
        return AutoModel.from_pretrained(name_or_path, dtype=dtype)
    except Exception as error:
        raise ValueError(
            "`name_or_path` must be a hub id, or a folder written by `save_pretrained`, got "
            f"{str(name_or_path)!r}, from which no model could be loaded ({reason_of(error)}). Check the name."
        ) from error


def disable_dropout(model: nn.Module) -> None:
    """
    Turns off every dropout of a model, the functional ones included.

    Many architectures (Llama, Qwen ...) store their attention dropout as a number and not as a module, which a search
    for `nn.Dropout` alone would miss.

    Args:
        model (`torch.nn.Module`):
            Model about to be trained by reinforcement learning. Its config is left unchanged.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if isinstance(value, float) and ("dropout" in name or "pdrop" in name):
                setattr(module, name, 0.0)


def context_length(model: PreTrainedModel) -> int | None:
    """Returns the number of positions of a model, prompt and completion together; `None` without a limit."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def _load_adapter(folder: Path, trainable: bool, **kwargs: Any) -> PreTrainedModel:
    from peft import AutoPeftModelForCausalLM

    model = AutoPeftModelForCausalLM.from_pretrained(folder, is_trainable=trainable, **kwargs)
    return model if trainable or _is_quantized(model.get_base_model()) else model.merge_and_unload()


def _is_quantized(model: PreTrainedModel) -> bool:
    return getattr(model, "is_quantized", False)


def _placed(model: PreTrainedModel, device: torch.device | None) -> PreTrainedModel:
    if not _is_quantized(model):
        return model if device is None else model.to(device)
    for module in model.modules():
        # On some CPUs bitsandbytes multiplies in bfloat16 in evaluation mode only, which would make two policies.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def _check_folder(name_or_path: str | Path) -> Path | None:
    """Returns the folder if it exists, `None` for a hub id. A name that can only be a path must exist."""
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise ValueError(
            f"`name_or_path` must be a hub id or an existing folder, got {text!r}. Check the name: there is no folder "
            f"{path.resolve()}."
        )
    return None
