"""The decoding loop, against the tokens that `generate` draws by itself from the same seed."""

from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig

from lmrl.models import draw, sampling_together

TOKENS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "vocab_size": 64, "initializer_range": 0.2}
LLAMA = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "GPT2Config": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "MistralConfig": {**LLAMA, "num_key_value_heads": 2, "sliding_window": 6},
    "BloomConfig": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "MambaConfig": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "state_size": 4,
    },  # no cache of keys: `generate` decodes
}
OPTIONS: dict[str, dict[str, Any]] = {
    "sampled": {"do_sample": True, "top_k": 0},
    "greedy": {"do_sample": False},
    "warped": {"do_sample": True, "top_k": 9, "top_p": 0.9, "min_p": 0.02, "temperature": 0.7},
    "penalized": {"do_sample": True, "top_k": 0, "repetition_penalty": 1.3},
}


def make(name: str) -> Any:
    """Returns a random model of an architecture."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(getattr(transformers, name)(**ARCHITECTURES[name], **TOKENS)).eval()


def generate(model: Any, **options: Any) -> torch.Tensor:
    """Returns what is generated after 3 prompts, 4 times each, where 4 of 64 tokens end a completion."""
    ids = torch.randint(3, 64, (3, 9), generator=torch.Generator().manual_seed(1)).repeat_interleave(4, dim=0)
    mask = torch.ones_like(ids)
    mask[:4, :3] = 0
    given = {name: options.pop(name) for name in ("custom_generate",) if name in options}
    config = GenerationConfig(**{"max_new_tokens": 24, "eos_token_id": [1, 7, 9, 33], "pad_token_id": 0, **options})
    torch.manual_seed(5)
    with torch.no_grad():
        return model.generate(input_ids=ids, attention_mask=mask, generation_config=config, **given)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_tokens_are_those_of_generate_from_the_same_seed(name: str, options: str) -> None:
    model = make(name)
    own = generate(model, **OPTIONS[options])
    assert torch.equal(generate(model, custom_generate=draw, **OPTIONS[options]), own)


@pytest.mark.parametrize("options", [{"eos_token_id": None}, {"max_new_tokens": 1}])
def test_with_no_end_and_with_one_token(options: dict[str, Any]) -> None:
    model = make("GPT2Config")
    own = generate(model, do_sample=True, top_k=0, **options)
    assert torch.equal(generate(model, do_sample=True, top_k=0, custom_generate=draw, **options), own)


def test_prompts_are_computed_once_and_ended_rows_leave() -> None:
    model = make("GPT2Config")
    shapes: list[tuple[int, ...]] = []
    model.get_input_embeddings().register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    with sampling_together(model):
        ids = generate(model, do_sample=True, top_k=0)
    assert "generate" not in vars(model)
    assert shapes[0] == (3, 9)
    ends = torch.isin(ids[:, 9:], torch.tensor([1, 7, 9, 33]))
    lengths = torch.where(ends.any(1), ends.int().argmax(1) + 1, 24).tolist()
    drawn = sum(rows for rows, _ in shapes[1:])
    assert all(length == 1 for _, length in shapes[1:])
    assert sum(lengths) - 12 <= drawn < 0.75 * 12 * (max(lengths) - 1)


def test_where_scores_are_to_be_returned_generate_decodes() -> None:
    model = make("GPT2Config")
    out = generate(model, custom_generate=draw, return_dict_in_generate=True, output_scores=True)
    assert len(out.scores) == out.sequences.shape[1] - 9
