"""Loading of policies and tokenizers from a hub id or a folder, their preparation for training, merged adapters."""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from safetensors import safe_open
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.activations import ACT2FN, NewGELUActivation
from transformers.utils import logging

from lmrl.precision import check_attention
from lmrl.utils import MODEL_CONFIGS, check_in, loading_problem, reason_of

from .adapters import backbone_of, untie_targets

logger = logging.get_logger(__name__)

_OTHER_HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
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
    tokenizer = read_tokenizer(name_or_path, padding_side="left", truncation_side="left", **kwargs)
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"The tokenizer of {str(name_or_path)!r} must have an EOS token, as no completion could end without it. "
            "Set `tokenizer.eos_token` to the token that ends a text and save the tokenizer again."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def read_tokenizer(name_or_path: str | Path, **kwargs: Any) -> PreTrainedTokenizerBase:
    """Returns any model's tokenizer as it was saved; raises a `ValueError` if there is none that works."""
    folder = _check_folder(name_or_path)
    try:
        if folder is not None and not any((folder / file).is_file() for file in _TOKENIZER_FILES):
            raise OSError(f"the folder has none of {', '.join(_TOKENIZER_FILES)}")
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, **kwargs)
        tokenizer.decode(tokenizer("a")["input_ids"])  # some damage shows only in use
    except Exception as error:  # a damaged folder may raise any exception
        has_model = folder is not None and any((folder / file).is_file() for file in MODEL_CONFIGS)
        remedy = "Save it there with `tokenizer.save_pretrained(folder)`." if has_model else "Check the name."
        raise ValueError(
            f"`name_or_path` must be a hub id or a folder with a tokenizer, got {str(name_or_path)!r}, from which "
            f"no tokenizer could be loaded ({loading_problem(name_or_path, error)}). {remedy}"
        ) from error
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
        ValueError: If there is no causal language model, or for [`check_attention`].
    """
    folder = _check_folder(name_or_path)
    check_attention(kwargs.get("attn_implementation"), dtype)
    try:
        if folder is not None and (folder / "adapter_config.json").is_file():
            return _placed(_load_adapter(folder, trainable, dtype=dtype, **kwargs), device)
        model, info = AutoModelForCausalLM.from_pretrained(
            name_or_path, dtype=dtype, output_loading_info=True, **kwargs
        )
    except Exception as error:
        raise _not_loaded(name_or_path, "causal language model", error) from error
    if missing := sorted(info["missing_keys"]):
        raise ValueError(
            f"`name_or_path` must be a causal language model with all its weights, got {str(name_or_path)!r} "
            f"without {missing[0]!r} ({len(missing)} are missing, and would be random). Do not pass a backbone or a "
            "classifier."
        )
    # With tied embeddings nothing is missing of a model with another head.
    if other := [kind for kind in model.config.architectures or () if kind.endswith(_OTHER_HEADS)]:
        raise ValueError(
            f"`name_or_path` must be a causal language model, got {str(name_or_path)!r}, a {other[0]}. Name the model "
            "that writes the texts, not a classifier or a reward model of them."
        )
    return _placed(model, device)


def load_policy(
    model: str | Path | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    visible_tokens: Sequence[str] | None = None,
    **kwargs: Any,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """
    Returns a policy to train, or an adapter to train further, and its tokenizer.

    If the tokenizer's pad token was added without resizing the model, which then has no row for it, the pad token is
    changed to EOS.

    Args:
        model (`str` or `Path` or [`~transformers.PreTrainedModel`]):
            Hub id or folder, or a model, which is returned as it is.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Its tokenizer. Without one it is loaded if `model` is a name, and else `None` is returned.
        visible_tokens (list of `str`, *optional*):
            Tokens for [`show_special_tokens`].
        **kwargs:
            As for [`load_model`].
    """
    if isinstance(model, str | Path):
        source = {name: kwargs[name] for name in ("revision", "trust_remote_code") if name in kwargs}
        tokenizer = tokenizer or load_tokenizer(model, **source)
        model = load_model(model, trainable=True, **kwargs)
    if tokenizer is not None and visible_tokens:
        show_special_tokens(tokenizer, visible_tokens)
    if (getattr(tokenizer, "pad_token_id", None) or 0) >= model.config.get_text_config().vocab_size:
        tokenizer.pad_token = tokenizer.eos_token  # type: ignore[union-attr]
    return model, tokenizer


def show_special_tokens(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> None:
    """
    Makes special tokens of a tokenizer, such as `"<row>"`, ordinary ones, in place: from then on decoded texts show
    them, also with `skip_special_tokens`, and so it is in the tokenizer that is saved.

    Raises:
        ValueError: For a token that is not there, or has a role (EOS, padding).
    """
    known = set(tokenizer.get_added_vocab()) - set(tokenizer.special_tokens_map.values())
    for token in tokens:
        check_in(sorted(known), visible_tokens=token)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    for added in state["added_tokens"]:
        added["special"] &= added["content"] not in tokens
    tokenizer._tokenizer = type(tokenizer.backend_tokenizer).from_str(json.dumps(state))
    tokenizer.extra_special_tokens = [token for token in tokenizer.extra_special_tokens if token not in tokens]


def load_backbone_and_head(
    name_or_path: str | Path, dtype: str | torch.dtype = "float32"
) -> tuple[PreTrainedModel, nn.Linear | None]:
    """Returns a backbone, an adapter merged into it, and the head of a reward model, with one label, else None."""
    folder = _check_folder(name_or_path)
    try:
        if folder is not None and (folder / "adapter_config.json").is_file():
            classifies = PeftConfig.from_pretrained(str(folder)).task_type == "SEQ_CLS"
            load = _load_merged_classifier if classifies else load_model
            return _apart(load(folder, dtype=dtype))
        kinds = AutoConfig.from_pretrained(name_or_path).architectures or ()
        if not any(kind.endswith("ForSequenceClassification") for kind in kinds):
            return AutoModel.from_pretrained(name_or_path, dtype=dtype), None
        options = {"dtype": dtype, "output_loading_info": True}
        return _apart(*AutoModelForSequenceClassification.from_pretrained(name_or_path, **options))
    except Exception as error:
        raise _not_loaded(name_or_path, "model", error) from error


def _apart(
    model: PreTrainedModel, loading: Mapping[str, Any] | None = None
) -> tuple[PreTrainedModel, nn.Linear | None]:
    """Returns the backbone of a model, and its head if that is a reward model's and was loaded, not made anew."""
    head = getattr(model, "score", None)
    is_random = loading is not None and any(name.startswith("score.") for name in loading["missing_keys"])
    is_reward_model = isinstance(head, nn.Linear) and head.out_features == 1 and not is_random
    return backbone_of(model), head if is_reward_model else None


def copy_backbone(policy: PreTrainedModel) -> PreTrainedModel:
    """Returns a copy of the backbone of a policy, to be trained. An adapter of the policy is merged into it."""
    if not hasattr(policy, "merge_and_unload"):
        return copy.deepcopy(backbone_of(policy))
    return backbone_of(copy.deepcopy(policy).merge_and_unload()).requires_grad_(True)


def disable_dropout(model: nn.Module) -> None:
    """
    Turns off every dropout of a model, the functional ones included.

    Many architectures (Llama, Qwen ...) store their attention dropout as a number and not as a module, which a search
    for `nn.Dropout` alone would miss. The config is left unchanged.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if isinstance(value, float) and ("dropout" in name or "pdrop" in name):
                setattr(module, name, 0.0)


def fuse_activations(model: nn.Module) -> None:
    """
    Replaces GPT-2's activation, eight elementwise operations, by PyTorch's fused one.

    Both are the tanh approximation of GELU and agree to rounding. Each of the eight operations reads and writes the
    widest tensor of the layer, and keeps it for the backward pass, which on a CPU is a third of the time of a small
    model. The config, and with it what is saved, is not changed, nor are other activations.
    """
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, ACT2FN["gelu_pytorch_tanh"])


def context_length(model: PreTrainedModel) -> int | None:
    """
    Returns the number of positions of a model, prompt and completion together; `None` without a limit.

    Models like RoBERTa begin to count positions after the index of padding, and so have fewer than the config states.
    LongRoPE (Phi-3) ends where other factors begin for all of a text, for tokens sampled before, and for its batch.
    """
    config = model.config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope" and rope["short_factor"] != rope["long_factor"]:
        limit = rope["original_max_position_embeddings"]
        logger.warning_once(
            f"The context of {type(model).__name__} counts as {limit} tokens: a longer text has other factors of "
            "LongRoPE, with its batch. For longer texts, set `short_factor` in config.json to `long_factor`."
        )
    for name, module in model.named_modules():
        padding = getattr(module, "padding_idx", None)
        if limit is not None and name.endswith("position_embeddings") and padding is not None:
            return limit - padding - 1
    return limit


def write_merged(folder: str | Path, target: str | Path | None = None, **kwargs: Any) -> Path:
    """
    Writes an adapter merged into its base, as a model with its tokenizer; returns the folder.

    The base is loaded from the place that the adapter's config names. It is not quantised, even if the adapter was
    trained on quantised weights, which could not hold the sum.

    Args:
        folder (`str` or `Path`):
            Folder of an adapter of a causal language model, or of a classifier whose head is saved with it.
        target (`str` or `Path`, *optional*):
            Folder to write; by default the subfolder `merged`.
        **kwargs:
            Passed on to `from_pretrained`, such as `dtype`.

    Raises:
        ValueError: If there is no adapter or no tokenizer in the folder, or its base cannot be loaded.
    """
    if not (Path(folder) / "adapter_config.json").is_file():
        raise ValueError(f"A folder to merge must hold an adapter, got {str(folder)!r} without adapter_config.json.")
    tokenizer = read_tokenizer(folder)  # if there is none, this fails before the weights are loaded
    classifies = PeftConfig.from_pretrained(str(folder)).task_type == "SEQ_CLS"
    load = _load_merged_classifier if classifies else load_model
    place = Path(folder) / "merged" if target is None else Path(target)
    load(Path(folder), **kwargs).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def _find_base(folder: Path, name: str) -> str:
    """Returns the base that the config of an adapter names: a path may be relative to a folder above the adapter."""
    for parent in (Path(), folder, *folder.resolve().parents):
        if (parent / name / "config.json").is_file():
            return str(parent / name)
    return name


def _load_merged_classifier(folder: Path, **kwargs: Any) -> PreTrainedModel:
    """Returns the adapter of a classifier merged into its base; raises a `ValueError` if it has no head."""
    with safe_open(folder / "adapter_model.safetensors", "pt") as weights:
        # The last layer of a head of two, as of RoBERTa, is `classifier.out_proj`.
        heads = sorted(name for name in weights.keys() if {"score", "classifier"} & {*name.split(".")})  # noqa: SIM118
        if not heads:
            raise ValueError(
                f"The adapter of a classifier must be saved with its head to be merged, got {str(folder)!r} without."
            )
        labels = weights.get_slice(heads[-1]).get_shape()[0]
    base = _find_base(folder, PeftConfig.from_pretrained(str(folder)).base_model_name_or_path)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=labels, **kwargs)
    return PeftModel.from_pretrained(model, folder).merge_and_unload().requires_grad_(True)


def _load_adapter(folder: Path, trainable: bool, dtype: str | torch.dtype, **kwargs: Any) -> PreTrainedModel:
    config = PeftConfig.from_pretrained(str(folder))
    if config.task_type not in ("CAUSAL_LM", None):
        raise ValueError(f"its adapter must be that of a causal language model, got one for {config.task_type}")
    name = _find_base(folder, config.base_model_name_or_path)
    try:
        base = load_model(name, dtype, **{**kwargs, "revision": config.revision or "main"})
    except ValueError as error:
        raise ValueError(
            f"its base {name!r}, which adapter_config.json names as `base_model_name_or_path`, could not be loaded: "
            f"{reason_of(error.__cause__ or error)}; move the base there, or change the name in that file"
        ) from error
    _add_tokens_of(folder, base, **kwargs)
    model = PeftModel.from_pretrained(base, folder, is_trainable=trainable)
    if trainable or getattr(base, "is_quantized", False):
        return model
    untie_targets(base)
    return model.merge_and_unload().requires_grad_(True)  # PEFT has frozen the base


def _add_tokens_of(folder: Path, base: PreTrainedModel, trust_remote_code: bool = False, **_: Any) -> None:
    """Resizes the base of an adapter to the vocabulary that it had when the adapter was trained."""
    if not any((folder / file).is_file() for file in _TOKENIZER_FILES):
        return
    vocabulary = len(AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code))
    if vocabulary > base.get_input_embeddings().weight.shape[0]:
        with safe_open(folder / "adapter_model.safetensors", "pt") as weights:
            shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
        if any(vocabulary in shape for shape in shapes):
            base.resize_token_embeddings(vocabulary)


def _placed(model: PreTrainedModel, device: torch.device | None) -> PreTrainedModel:
    if not getattr(model, "is_quantized", False):
        return model if device is None else model.to(device)
    for module in model.modules():
        # On some CPUs bitsandbytes multiplies in bfloat16 in evaluation mode only, which would make two policies.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def _check_folder(name_or_path: str | Path) -> Path | None:
    """Returns the folder if it exists, `None` for a hub id; an error for a path, or a run, without a model."""
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        checkpoints = sorted(path.glob("checkpoint-*"), key=lambda place: place.stat().st_mtime)
        if checkpoints and not any((path / name).is_file() for name in MODEL_CONFIGS):
            raise ValueError(
                f"`name_or_path` must be a folder with {' or '.join(MODEL_CONFIGS)}, got {str(name_or_path)!r}, a run "
                f"that has not ended. Did you mean `{checkpoints[-1]}`?"
            )
        return path
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise ValueError(
            f"`name_or_path` must be a hub id or an existing folder, got {text!r}. Check the name: there is no folder "
            f"{path.resolve()}."
        )
    return None


def _not_loaded(name_or_path: str | Path, kind: str, error: Exception) -> ValueError:
    return ValueError(
        f"`name_or_path` must be a hub id, or a folder written by `save_pretrained`, got {str(name_or_path)!r}, from "
        f"which no {kind} could be loaded ({loading_problem(name_or_path, error)}). Check the name."
    )
