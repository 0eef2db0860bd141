"""What lmrl relies on in TRL's generation by vLLM, as far as it goes without one."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from training import ALGORITHMS, make_trainer
from transformers import AutoModelForCausalLM
from trl.generation.vllm_client import VLLMClient
from trl.generation.vllm_generation import VLLMGeneration, is_vllm_available

from lmrl.critics import get_critic
from lmrl.trainers import PolicyGradientTrainer, PPOConfig, ReinforceConfig
from lmrl.trainers.engines import send_policy_to_vllm

LORA = LoraConfig(r=4, target_modules=["c_attn"], task_type="CAUSAL_LM", init_lora_weights=False)


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def sender(trainer: PolicyGradientTrainer) -> VLLMGeneration:
    """Returns TRL's object as its constructor leaves it but for the engine, which is not there."""
    generation = VLLMGeneration.__new__(VLLMGeneration)
    generation.model, generation.accelerator, generation._dist = trainer.model, trainer.accelerator, trainer._dist
    return generation


def test_trl_calls_vllm_as_it_did() -> None:
    assert parameters(VLLMGeneration.generate) == ["self", "prompts", "images", "num_generations", "profiler"]
    assert parameters(VLLMGeneration.sync_weights) == parameters(VLLMGeneration._iter_named_params) == ["self"]
    wanted = {"model", "mode", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "generation_kwargs"}
    assert wanted < set(parameters(VLLMGeneration.__init__))
    assert "self._iter_named_params()" in inspect.getsource(VLLMGeneration.sync_weights)
    assert parameters(VLLMClient.update_named_params)[:3] == ["self", "metadata", "named_params"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_base_of_an_adapter_is_the_same_bit_by_bit_after_weights_were_sent(
    dtype: str, llama_path: str, tmp_path: Path
) -> None:
    adapter = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    model = AutoModelForCausalLM.from_pretrained(llama_path, dtype=dtype)
    trainer = make_trainer("reinforce", model, tmp_path, peft_config=adapter)
    before = {name: (weight.data_ptr(), weight.clone()) for name, weight in trainer.model.named_parameters()}
    generation = sender(trainer)
    send_policy_to_vllm(generation)
    first = {name: weight.clone() for name, weight in generation._iter_named_params()}
    for _ in range(3):
        assert all(torch.equal(weight, first[name]) for name, weight in generation._iter_named_params())
    for name, weight in trainer.model.named_parameters():
        address, value = before[name]
        assert weight.data_ptr() == address and torch.equal(weight, value), name
    assert not torch.equal(
        first["model.layers.0.mlp.up_proj.weight"], model.model.layers[0].mlp.up_proj.base_layer.weight
    )


def test_an_adapter_that_the_plain_model_of_vllm_cannot_take_is_refused(gpt2_path: str, tmp_path: Path) -> None:
    for options in ({"target_modules": ["wte"]}, {"target_modules": ["c_attn"], "trainable_token_indices": [5]}):
        adapter = LoraConfig(r=4, task_type="CAUSAL_LM", **options)
        trainer = make_trainer("reinforce", gpt2_path, tmp_path, peft_config=adapter)
        with pytest.raises(ValueError, match=r"`use_vllm` must be False for adapters .* tied to the LM head"):
            send_policy_to_vllm(sender(trainer))


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_vllm_gets_the_weights_of_the_plain_model(
    critic: str, gpt2_path: str, llama_path: str, tmp_path: Path
) -> None:
    for path in (gpt2_path, llama_path):
        trainer = make_trainer("ppo", path, tmp_path, critic=critic)
        generation = sender(trainer)
        assert any(name.startswith("critic.") for name, _ in generation._iter_named_params())
        send_policy_to_vllm(generation)
        sent = dict(generation._iter_named_params())
        plain = dict(AutoModelForCausalLM.from_pretrained(path).named_parameters())
        assert list(sent) == list(plain)
        assert all(torch.equal(sent[name], plain[name]) for name in plain)
        assert get_critic(trainer.model) is trainer.model.critic  # still trained


def test_vllm_gets_merged_weights_of_an_adapter(gpt2_path: str, tmp_path: Path) -> None:
    trainer = make_trainer("ppo", gpt2_path, tmp_path, peft_config=LORA)
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    generation = sender(trainer)
    send_policy_to_vllm(generation)
    sent = {name: weight.clone() for name, weight in generation._iter_named_params()}
    for name, weight in trainer.model.named_parameters():
        assert torch.allclose(weight, before[name], atol=1e-6), name
    del trainer.model.get_base_model().critic
    trainer.model.get_base_model().__dict__.pop("forward")
    merged = dict(trainer.model.merge_and_unload().named_parameters())
    plain = AutoModelForCausalLM.from_pretrained(gpt2_path)
    assert list(sent) == list(merged) == [name for name, _ in plain.named_parameters()]
    assert all(torch.allclose(sent[name], merged[name], atol=1e-6) for name in merged)
    name = "transformer.h.0.attn.c_attn.weight"
    assert not torch.allclose(sent[name], plain.get_parameter(name), atol=1e-2)


@pytest.mark.skipif(is_vllm_available(), reason="vLLM is installed")
@pytest.mark.parametrize("mode", ["colocate", "server"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_without_vllm_the_message_names_what_to_install(
    algorithm: str, mode: str, gpt2_path: str, tmp_path: Path
) -> None:
    with pytest.raises(ImportError, match=r"vLLM is not available .* install vLLM with `pip install trl\[vllm\]`"):
        make_trainer(algorithm, gpt2_path, tmp_path, use_vllm=True, vllm_mode=mode)


def test_what_vllm_would_not_know_is_refused(tmp_path: Path) -> None:
    options = {"output_dir": str(tmp_path), "use_vllm": True, "use_cpu": True, "bf16": False}
    assert PPOConfig(**options).vllm_mode == "colocate"
    with pytest.raises(ValueError, match=r"`generation_kwargs` must have no options but \[\], got 'use_cache'"):
        PPOConfig(**options, generation_kwargs={"use_cache": True})
    with pytest.raises(ValueError, match="`baseline` must not be 'greedy' with use_vllm=True"):
        ReinforceConfig(**options, baseline="greedy")
