"""A tiny GPT-2 (learned positions) with a tokenizer of one word per token."""

import copy

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

# "stop" is an ordinary word: a text that ends by it shows it unless the second eos id is honoured.
WORDS = ["<eos>", "<pad>", "stop", "a", "b", "c", "d", "e", "f", "g", "h", "i"]
STOP = WORDS.index("stop")


@pytest.fixture
def tokenizer():
    words = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="a"))
    words.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", pad_token="<pad>")


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(WORDS),
        n_positions=32,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.6,
    )
    return GPT2LMHeadModel(config).eval()


@pytest.fixture
def reference(model):
    """The model with other weights."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return other


@pytest.fixture
def prompts():
    return ["a b c d e f", "c", "a b", "i h g f e d c b a", "e e e", "d c", "f g h i a", "b"]
