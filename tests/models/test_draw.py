"""The decoding loop, against the tokens that `generate` draws by itself from the same seed."""

from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig

from lmrl.drawn import Drawn
from lmrl.models import add_scoring_forward, draw, sampling_together

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


@pytest.mark.parametrize("name", ["GPT2Config", "MistralConfig", "BloomConfig"])
def test_log_probabilities_and_states_come_with_the_tokens(name: str) -> None:
    model = make(name)
    record = Drawn(with_states=True)
    with sampling_together(model, record):
        ids = generate(model, do_sample=True, top_k=0, temperature=0.7)
    width = ids.shape[1] - 9
    log_probs, states = record.take(width + 3)
    assert log_probs.shape == (12, width + 3) and states.shape == (12, width + 3, 32)
    assert record.take(width) == (None, None)
    ends = torch.isin(ids[:, 9:], torch.tensor([1, 7, 9, 33]))
    mask = torch.ones_like(ids)
    mask[:4, :3] = 0
    mask[:, 9:] = ends.cumsum(1) - ends.int() == 0
    kept = mask[:, 9:].bool()
    add_scoring_forward(model, temperature=0.7)
    with torch.no_grad():
        scored = model(input_ids=ids, attention_mask=mask, completion_length=width)
        again = model.get_output_embeddings()(states[:, :width]).div(0.7).log_softmax(-1)
    assert torch.allclose(log_probs[:, :width][kept], scored.log_probs[kept], atol=1e-5)
    assert torch.allclose(again.gather(2, ids[:, 9:, None])[..., 0][kept], scored.log_probs[kept], atol=1e-5)


def test_logits_that_are_no_numbers_show_in_the_log_probabilities() -> None:
    model = make("GPT2Config")
    model.transformer.ln_f.weight.data.fill_(float("nan"))
    record = Drawn()
    with sampling_together(model, record):
        generate(model, do_sample=True, top_k=0, remove_invalid_values=True)
    assert record.take(1)[0].isnan().all()


def test_greedy_tokens_leave_the_record_of_those_that_were_sampled() -> None:
    model = make("GPT2Config")
    record = Drawn()
    with sampling_together(model, record):
        generate(model, do_sample=True, top_k=0)
        generate(model, do_sample=False)
    assert (record.take(8)[0] < 0).any()


def test_where_scores_are_to_be_returned_generate_decodes() -> None:
    model = make("GPT2Config")
    out = generate(model, custom_generate=draw, return_dict_in_generate=True, output_scores=True)
    assert len(out.scores) == out.sequences.shape[1] - 9
