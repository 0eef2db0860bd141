"""The model with random weights that the children of step.py and memory.py train, and its prompts."""

import random

import torch
from _common import Settings
from transformers import GPT2Config, GPT2LMHeadModel

EOS_LOGIT = -40.0  # with which EOS is sampled once in 1e22 tokens


def make_model(settings: Settings) -> None:
    """Writes a GPT-2 with random weights that never samples its EOS, and a tokenizer of words "t0", "t1" ..."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    eos = settings.vocabulary - 2
    pad = settings.vocabulary - 1
    vocabulary = {f"t{index}": index for index in range(eos)} | {"<eos>": eos, "<pad>": pad}
    words = Tokenizer(models.WordLevel(vocabulary))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<eos>", pad_token="<pad>", padding_side="left"
    )
    config = GPT2Config(
        vocab_size=settings.vocabulary,
        n_layer=settings.layers,
        n_embd=settings.width,
        n_head=settings.heads,
        n_positions=max(1024, settings.prompt_length + settings.new_tokens),
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
        **dict.fromkeys(("eos_token_id", "bos_token_id"), eos),
        pad_token_id=pad,
    )
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config)
    # A layer norm's output sums to 0, with a bias of ones to the width: a constant row of the head has a constant
    # logit.
    with torch.no_grad():
        model.transformer.ln_f.bias.fill_(1.0)
        model.transformer.wte.weight[eos:] = EOS_LOGIT / settings.width
    model.save_pretrained(settings.folder)
    tokenizer.save_pretrained(settings.folder)


def load_model(settings: Settings) -> GPT2LMHeadModel:
    """Returns the model in float32."""
    return GPT2LMHeadModel.from_pretrained(settings.folder, dtype=torch.float32)


def random_prompts(settings: Settings, count: int) -> list[list[int]]:
    """Returns the ids of `count` prompts, the same for every child."""
    draw = random.Random(0)
    return [[draw.randrange(settings.vocabulary - 2) for _ in range(settings.prompt_length)] for _ in range(count)]
