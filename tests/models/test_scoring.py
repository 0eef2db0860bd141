"""The scoring pass of architectures with something of their own, against the model's logits."""

from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    HyperCLOVAXConfig,
    HyperCLOVAXForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
)

from lmrl.critics import attach_critic
from lmrl.models import add_scoring_forward, check_scoring_forward, context_length
from lmrl.models.scoring import check_padding

SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
TOKENS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}


def llama4() -> Any:
    """Returns a model of which `base_model` is the model itself."""
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1, "intermediate_size_mlp": 64}
    return Llama4ForCausalLM(Llama4TextConfig(**SIZES, **HEADS, **TOKENS, **experts, attention_chunk_size=8))


def gemma3() -> Any:
    """Returns a model whose sizes are in the config of its text model."""
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    images = {"image_token_id": 3, "boi_token_id": 4, "eoi_token_id": 5, "mm_tokens_per_image": 1}
    config = Gemma3Config(
        text_config={**SIZES, **HEADS, **TOKENS, "sliding_window": 8},
        vision_config={**vision, "image_size": 28, "patch_size": 14},
        **images,
    )
    return Gemma3ForConditionalGeneration(config)


def hyperclovax() -> Any:
    """Returns a model that multiplies its logits by the `logits_scaling` that Granite divides them by."""
    return HyperCLOVAXForCausalLM(HyperCLOVAXConfig(**SIZES, **HEADS, **TOKENS, logits_scaling=8.0))


def recurrent_gemma() -> Any:
    """Returns a model with logits of up to 20, of which its bound of 30 makes 17."""
    layers = {**SIZES, "num_hidden_layers": 3, "block_types": ["recurrent", "recurrent", "attention"]}
    config = RecurrentGemmaConfig(**layers, **HEADS, **TOKENS, lru_width=32, attention_window_size=8)
    model = RecurrentGemmaForCausalLM(config)
    torch.nn.init.normal_(model.lm_head.weight)
    return model


@pytest.mark.parametrize("make", [llama4, gemma3, hyperclovax, recurrent_gemma])
def test_log_probs_are_those_of_the_models_own_logits(make: Any) -> None:
    torch.manual_seed(0)
    model = make().eval()
    ids = torch.tensor([[6, 7, 8, 9, 10, 11]])
    logits = model(ids).logits
    attach_critic(model)
    add_scoring_forward(model)
    scored = model(input_ids=ids, attention_mask=torch.ones_like(ids), completion_length=4, with_values=True)
    expected = logits[:, 1:5].log_softmax(-1).gather(2, ids[:, 2:].unsqueeze(2)).squeeze(2)
    assert torch.allclose(scored.log_probs, expected, atol=1e-5)
    assert scored.state_values.shape == (1, 4)
    assert context_length(model) == 64


def test_logits_that_the_scoring_pass_does_not_know_are_refused_whatever_one_token_gets() -> None:
    torch.manual_seed(0)
    # Its head has a layer of its own before the embeddings.
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    model = BertLMHeadModel(BertConfig(**sizes, num_attention_heads=4, is_decoder=True, initializer_range=0.2)).eval()
    ids = torch.tensor([[0, 1, 2]])
    own = model(ids).logits[0, 0].log_softmax(-1)
    add_scoring_forward(model)
    scored = model(input_ids=ids, attention_mask=torch.ones_like(ids), completion_length=2, with_all=True)
    model.cls.predictions.bias.data[1] += (scored.all_log_probs[0] - own)[1].detach()  # one token may agree
    refused = r"log-probabilities under BertLMHeadModel must be .* its own logits, got a relative difference of 0\.\d+"
    with pytest.raises(ValueError, match=refused):
        check_scoring_forward(model, 1.0)


@pytest.mark.parametrize("kind", ["electra", "rembert"])
def test_a_head_of_another_width_than_the_states_is_refused(kind: str) -> None:
    widths = {"electra": {"embedding_size": 16}, "rembert": {"input_embedding_size": 16, "output_embedding_size": 24}}
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    config = AutoConfig.for_model(kind, num_attention_heads=4, is_decoder=True, **sizes, **widths[kind])
    model = AutoModelForCausalLM.from_config(config)
    add_scoring_forward(model)
    with pytest.raises(ValueError, match=r"must be those of its own logits, got a relative difference of inf"):
        check_scoring_forward(model, 1.0)


def test_padding_is_checked_with_tokens_that_a_state_shows() -> None:
    torch.manual_seed(0)
    model = recurrent_gemma().eval()
    model.get_input_embeddings().weight.data[0] = 0.0  # as of `padding_idx`, until the head that is tied to it learns
    add_scoring_forward(model)
    with pytest.raises(ValueError, match=r"Padding on the left .* for RecurrentGemmaForCausalLM: what it computes"):
        check_padding(model)
