"""Decoding on buffers of a fixed size, as a CUDA graph needs them: here without a graph, against `generate`."""

from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GenerationConfig

from lmrl.captured import CapturedSteps
from lmrl.drawn import Drawn
from lmrl.models import sampling_together

TOKENS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "vocab_size": 64, "initializer_range": 0.2}
LLAMA = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "GPT2Config": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "LlamaConfig": {**LLAMA, "num_key_value_heads": 2},
    "OPTConfig": {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    "MistralConfig": {**LLAMA, "num_key_value_heads": 2, "sliding_window": 6},
}
SAMPLED = {"do_sample": True, "top_k": 0, "temperature": 0.7}


def make(name: str, lora: bool = False) -> Any:
    """Returns a random model of an architecture, with an adapter if wanted."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(getattr(transformers, name)(**ARCHITECTURES[name], **TOKENS)).eval()
    if lora:
        config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
        model = get_peft_model(model, config).get_base_model()
    return model


def generate(model: Any, width: int = 9, rows: int = 4, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns what follows 3 prompts, each as often, and the random numbers after it; 4 of 64 tokens are ends."""
    ids = torch.randint(3, 64, (3, width), generator=torch.Generator().manual_seed(1)).repeat_interleave(rows, dim=0)
    mask = torch.ones_like(ids)
    mask[:rows, :3] = 0
    config = GenerationConfig(**{"max_new_tokens": 24, "eos_token_id": [1, 7, 9, 33], "pad_token_id": 0, **options})
    torch.manual_seed(5)
    with torch.no_grad():
        sequences = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    return sequences, torch.rand(4)


def by_fixed_buffers(model: Any, record: Drawn | None = None, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    graphs = CapturedSteps(captures=False)
    with sampling_together(model, record, graphs):
        result = generate(model, **options)
    assert len(graphs) == 1
    return result


@pytest.mark.parametrize("options", [SAMPLED, {"do_sample": False}, {**SAMPLED, "repetition_penalty": 1.3}])
@pytest.mark.parametrize("name", ["GPT2Config", "LlamaConfig", "OPTConfig"])
def test_tokens_and_the_random_numbers_after_them_are_those_of_generate(name: str, options: dict[str, Any]) -> None:
    model = make(name)
    expected = generate(model, **options)
    found = by_fixed_buffers(model, **options)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("most", [2, 8, 9, 55])
def test_it_ends_with_the_last_row_and_at_the_longest_length(most: int) -> None:
    model = make("LlamaConfig")
    for options in ({"max_new_tokens": most}, {"max_new_tokens": most, "eos_token_id": list(range(2, 40))}):
        expected = generate(model, **SAMPLED, **options)
        found = by_fixed_buffers(model, **SAMPLED, **options)
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("lora", [False, True])
def test_log_probabilities_and_states_are_those_of_the_plain_loop(lora: bool) -> None:
    model = make("LlamaConfig", lora)
    record = Drawn(with_states=True)
    with sampling_together(model, record):
        sequences, _ = generate(model, **SAMPLED)
    width = sequences.shape[1] - 9
    expected = record.take(width)
    found_sequences, _ = by_fixed_buffers(model, record, **SAMPLED)
    found = record.take(width)
    ends = torch.isin(sequences[:, 9:], torch.tensor([1, 7, 9, 33])).int()
    kept = ends.cumsum(1) - ends == 0
    assert torch.equal(found_sequences, sequences)
    assert (~kept).sum() > 0
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one[kept], other[kept], atol=1e-5)


def test_buffers_are_used_again_with_the_weights_of_their_time_and_not_elsewhere() -> None:
    model = make("GPT2Config")
    graphs = CapturedSteps(captures=False)
    with sampling_together(model, graphs=graphs):
        first, _ = generate(model, **SAMPLED)
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(0.9)
        found = generate(model, **SAMPLED)
        assert len(graphs) == 1
        shorter = generate(model, width=7, **SAMPLED)
        assert len(graphs) == 1
        generate(model, rows=2, **SAMPLED)
        assert len(graphs) == 2
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
        generate(model, **SAMPLED)
        assert len(graphs) == 3
    assert not torch.equal(found[0], first)
    assert torch.equal(found[0], generate(model, **SAMPLED)[0])
    assert torch.equal(shorter[0], generate(model, width=7, **SAMPLED)[0])
    graphs.clear()
    assert len(graphs) == 0


def test_a_step_that_differs_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    model = make("GPT2Config")
    calls = []

    def differ(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Adds what depends on how often the model was called, which a graph would not repeat."""
        calls.append(len(calls))
        return (inputs[0] + 0.1 * len(calls) * torch.ones(32).cumsum(0), *inputs[1:])

    model.lm_head.register_forward_pre_hook(differ)
    graphs = CapturedSteps(captures=False)
    transformers.utils.logging.enable_propagation()
    with sampling_together(model, graphs=graphs):
        found, _ = generate(model, **SAMPLED)
    transformers.utils.logging.disable_propagation()
    assert found.shape[0] == 12
    assert len(graphs) == 0
    assert model.use_cuda_graphs is False
    assert [line for line in caplog.messages if "decodes without CUDA graphs: its logits differ by" in line]


def test_a_sliding_window_is_decoded_by_the_plain_loop() -> None:
    model = make("MistralConfig")
    expected, _ = generate(model, **SAMPLED)
    graphs = CapturedSteps(captures=False)
    with sampling_together(model, graphs=graphs):
        found, _ = generate(model, **SAMPLED)
    assert len(graphs) == 0
    assert torch.equal(found, expected)


def test_on_a_cpu_no_step_is_captured() -> None:
    model = make("GPT2Config")
    graphs = CapturedSteps()
    with sampling_together(model, graphs=graphs):
        generate(model, **SAMPLED)
    assert len(graphs) == 0
    assert not hasattr(model, "use_cuda_graphs")
