"""The scoring pass of architectures with something of their own, against the model's logits."""

from typing import Any

import pytest
import torch
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Llama4ForCausalLM, Llama4TextConfig

from lmrl.critics import attach_critic
from lmrl.models import add_scoring_forward, context_length

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


@pytest.mark.parametrize("make", [llama4, gemma3])
def test_log_probs_are_those_of_the_models_own_logits(make: Any) -> None:
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
