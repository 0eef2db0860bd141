"""Trainable sequence classifiers: a pretrained model with a new head, or a small encoder from scratch."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertTokenizer,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lmrl.models import read_tokenizer
from lmrl.utils import loading_problem

SCRATCH = "scratch"
HEADS = ("score", "classifier")  # that PEFT trains and saves with an adapter of a classifier

# Of a model from scratch: word pieces at most, and the size of a token's vector.
_VOCABULARY = 8000
_WIDTH = 128


def load_trainable_classifier(
    model_name_or_path: str,
    labels: Sequence[str],
    texts: Iterable[str],
    dtype: str | torch.dtype = "float32",
    revision: str = "main",
    trust_remote_code: bool = False,
    with_adapter: bool = False,
    **kwargs: Any,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    Returns a model with a new head of one logit per label, and its tokenizer, which pads on the right.

    A tokenizer without a pad token gets its EOS as pad token, as in TRL's `RewardTrainer`. A decoder takes its score
    from the last token that is not padding; to find it, it needs the id of padding, which is written into its config.

    Args:
        model_name_or_path (`str`):
            Hub id or folder of any pretrained model with a tokenizer, or `"scratch"`: [`small_encoder`].
        labels (`Sequence[str]`):
            Names of the labels, saved in the config; a reward model has one.
        texts (iterable of `str`):
            The training texts, from which the vocabulary of a model from scratch is built.
        dtype (`str` or `torch.dtype`, *optional*, defaults to `"float32"`):
            Precision of the weights.
        revision (`str`, *optional*, defaults to `"main"`), trust_remote_code (`bool`, *optional*):
            Which files of the hub are loaded, and whether their code may be run.
        with_adapter (`bool`, *optional*, defaults to `False`):
            Whether the model is to be trained with LoRA; then only the adapter and the head are saved.
        **kwargs:
            Passed on to the model's `from_pretrained`, such as `attn_implementation`.

    Raises:
        ValueError: If there is no such model, it is an adapter, its tokenizer has neither a pad token nor an EOS, or
            it has new weights that would not be saved with an adapter.
    """
    if model_name_or_path == SCRATCH:
        if kwargs.get("quantization_config") is not None:
            raise ValueError(
                f"`quantization_config` must not be set with {SCRATCH!r}, as all weights of such a model are trained. "
                "Leave it out."
            )
        _check_saved(SCRATCH, with_adapter, ["all layers"])
        return small_encoder(texts, labels)
    if (Path(model_name_or_path) / "adapter_config.json").is_file():
        raise ValueError(
            f"`model_name_or_path` must be a complete model, got an adapter, {model_name_or_path!r}. Merge it into "
            f"its base: lmrl merge {model_name_or_path} NEW_FOLDER."
        )
    source = {"revision": revision, "trust_remote_code": trust_remote_code}
    if (quantization := kwargs.get("quantization_config")) is not None:
        quantization.llm_int8_skip_modules = list(HEADS)  # all weights of the new head are trained
    try:
        tokenizer = read_tokenizer(model_name_or_path, padding_side="right", **source)
        model, found = AutoModelForSequenceClassification.from_pretrained(
            model_name_or_path, dtype=dtype, output_loading_info=True, **_label_names(labels), **source, **kwargs
        )
    except Exception as error:  # a damaged folder may raise any exception
        reason = loading_problem(model_name_or_path, error)
        raise ValueError(
            f"`model_name_or_path` must be a hub id, a folder with a model and its tokenizer, or {SCRATCH!r}, got "
            f"{model_name_or_path!r}, from which no classifier could be loaded ({reason}). Check the name."
        ) from error
    _check_saved(model_name_or_path, with_adapter, found["missing_keys"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise ValueError(
            f"The tokenizer of {model_name_or_path!r} must have a pad token or an EOS, got none. Set one and save it."
        )
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def _check_saved(name: str, with_adapter: bool, new: Iterable[str]) -> None:
    """Raises an error if a model that gets an adapter has `new` weights, by name, which no adapter would save."""
    lost = {re.sub(r"\.(weight|bias)$", "", weight) for weight in new if weight.split(".")[0] not in HEADS}
    if with_adapter and lost:
        raise ValueError(
            f"`use_peft` must be false for {name!r}, got true. Its weights of {', '.join(sorted(lost))} are new, and "
            "no adapter saves them: leave it out, and all weights are trained."
        )


def small_encoder(texts: Iterable[str], labels: Sequence[str]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    Returns a ModernBERT of one layer with random weights, and a lower-case word-piece tokenizer trained on the texts.

    The model averages over the tokens and has strong dropout: it learns from thousands of texts in a minute on a CPU,
    for use where no pretrained model is available. Its config has the names of the labels.
    """
    tokenizer = _word_piece_tokenizer(texts)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "cls", "sep", "eos")}
    config = ModernBertConfig(
        vocab_size=len(tokenizer),
        hidden_size=_WIDTH,
        intermediate_size=2 * _WIDTH,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        classifier_pooling="mean",
        embedding_dropout=0.3,
        mlp_dropout=0.1,
        classifier_dropout=0.3,
        bos_token_id=None,
        **ids,
        **_label_names(labels),
    )
    return ModernBertForSequenceClassification(config), tokenizer


def _word_piece_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerBase:
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    empty = BertTokenizer(
        vocab={token: number for number, token in enumerate(special)},
        eos_token="[SEP]",  # the texts of a reward model end in an EOS
        model_max_length=512,
        padding_side="right",
        model_input_names=["input_ids", "attention_mask"],
    )
    return empty.train_new_from_iterator(texts, _VOCABULARY)


def _label_names(labels: Sequence[str]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(labels)), "label2id": {label: number for number, label in enumerate(labels)}}
