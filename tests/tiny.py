"""Tiny real models that `from_pretrained` loads offline in milliseconds: 2 layers of width 32, a vocabulary of 64."""

import string
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<eos>", "<unk>"]
ROLES = ["system", "user", "assistant"]
NAMES = [f"w{number}" for number in range(64 - len(SPECIAL) - len(ROLES) - 36)]
WORDS = [*SPECIAL, *string.ascii_lowercase, *string.digits, *ROLES, *NAMES]  # the index of a word is its id

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Returns a tokenizer of words separated by spaces (a to z, 0 to 9, w0 to w21); it pads left, not with eos."""
    words = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=64,
        chat_template=CHAT_TEMPLATE,
    )


def tiny_gpt2(folder: str | Path, seed: int = 0, **config: Any) -> str:
    """Saves a random GPT-2 with 64 learned positions and dropout 0.1, and the tokenizer; returns the folder."""
    sizes = {"vocab_size": len(WORDS), "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
    dropout = {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1}
    return _save(folder, seed, GPT2LMHeadModel, GPT2Config(**{**sizes, **dropout, **_tokens(), **config}))


def tiny_llama(folder: str | Path, seed: int = 0, **config: Any) -> str:
    """Saves a random Llama with grouped key-value heads, and the tokenizer; returns the folder."""
    sizes = {"vocab_size": len(WORDS), "max_position_embeddings": 64, "hidden_size": 32, "intermediate_size": 64}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "attention_dropout": 0.1}
    return _save(folder, seed, LlamaForCausalLM, LlamaConfig(**{**sizes, **layers, **_tokens(), **config}))


def _tokens() -> dict[str, Any]:
    # At the usual 0.02 the outputs of a tiny model hardly depend on the context.
    special = {"bos_token_id": None, "pad_token_id": WORDS.index("<pad>"), "eos_token_id": WORDS.index("<eos>")}
    return {**special, "initializer_range": 0.2}


def _save(folder: str | Path, seed: int, model: type, config: Any) -> str:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)
