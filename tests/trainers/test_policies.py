"""Policies as they are given: adapters that change their base, and what cannot be trained."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PromptTuningConfig, get_peft_model
from tiny import tiny_tokenizer
from training import make_trainer
from transformers import (
    AutoModelForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
    TrOCRConfig,
    TrOCRForCausalLM,
)

from lmrl.models import load_model

IDS = torch.tensor([[6, 7, 8, 9]])


@pytest.mark.parametrize(
    ("folder", "modules", "options"),
    [
        ("gpt2_path", ["c_attn"], {"bias": "all"}),
        ("gpt2_path", ["c_attn"], {"bias": "lora_only"}),
        ("llama_path", ["q_proj"], {"init_lora_weights": "pissa"}),
        ("llama_path", ["q_proj"], {"init_lora_weights": "olora"}),
    ],
)
def test_the_reference_is_the_policy_as_it_was_given_where_the_adapter_changes_the_base(
    folder: str, modules: list[str], options: dict[str, Any], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    path = request.getfixturevalue(folder)
    lora = LoraConfig(r=4, target_modules=modules, task_type="CAUSAL_LM", **options)
    trainer = make_trainer("reinforce", path, tmp_path, peft_config=lora, learning_rate=5e-2, num_iterations=2)
    trainer.train()
    start = AutoModelForCausalLM.from_pretrained(path).eval()(IDS).logits
    trainer.model.eval()
    with torch.no_grad(), trainer.model.disable_adapter():
        adapter_off = trainer.model(IDS).logits
    assert torch.allclose(trainer.ref_model(input_ids=IDS).logits, start, atol=1e-5)
    assert (adapter_off - start).abs().max() > 1e-3
    assert trainer.state.log_history[0]["kl_per_sequence"] == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize(
    "options", [{"target_modules": ["q_proj", "embed_tokens"]}, {"trainable_token_indices": [6, 11, 15]}]
)
def test_the_reference_of_an_adapter_that_is_trained_further_has_its_weights_of_embeddings(
    options: dict[str, Any], llama_path: str, tmp_path: Path
) -> None:
    lora = LoraConfig(**{"r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", **options})
    first = make_trainer("reinforce", llama_path, tmp_path / "first", peft_config=lora, learning_rate=5e-2)
    first.train()
    first.save_model()
    further = make_trainer("reinforce", str(tmp_path / "first"), tmp_path / "further", learning_rate=5e-2)
    further.model.set_adapter("ref")
    reference = further.model.eval()(IDS).logits
    assert torch.allclose(reference, load_model(tmp_path / "first").eval()(IDS).logits, atol=1e-5)
    further.model.set_adapter("default")
    further.train()
    assert further.state.log_history[0]["kl_per_sequence"] == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("options", [{"bias": "lora_only"}, {"init_lora_weights": "pissa"}])
def test_an_adapter_that_changes_its_base_is_not_trained_further(
    options: dict[str, Any], gpt2_path: str, tmp_path: Path
) -> None:
    lora = LoraConfig(r=4, target_modules=["c_attn"], task_type="CAUSAL_LM", **options)
    first = make_trainer("reinforce", gpt2_path, tmp_path, peft_config=lora)
    first.save_model()
    for beta in (0.05, 0.0):
        with pytest.raises(
            ValueError, match=r"of an adapter that is trained further must leave its base .*lmrl merge"
        ):
            make_trainer("reinforce", str(tmp_path), tmp_path, beta=beta)


def test_an_adapter_that_keeps_the_base_needs_no_copy_of_it(gpt2_path: str, tmp_path: Path) -> None:
    for options in ({}, {"init_lora_weights": "gaussian"}):
        lora = LoraConfig(r=4, target_modules=["c_attn"], task_type="CAUSAL_LM", **options)
        assert make_trainer("reinforce", gpt2_path, tmp_path, peft_config=lora).ref_model is None


def test_tokens_are_trained_where_the_head_is_the_embedding(gpt2_path: str, tmp_path: Path) -> None:
    tokens = LoraConfig(target_modules=["c_attn"], trainable_token_indices=[11, 15], task_type="CAUSAL_LM")
    trainer = make_trainer("ppo", gpt2_path, tmp_path, peft_config=tokens)
    trainer.train()
    trainer.save_model()
    start = AutoModelForCausalLM.from_pretrained(gpt2_path).transformer.wte.weight
    moved = (load_model(tmp_path).transformer.wte.weight != start).any(dim=1)
    assert moved.nonzero().flatten().tolist() == [11, 15]
    trainer.model.eval()
    assert torch.allclose(load_model(tmp_path).eval()(IDS).logits, trainer.model(input_ids=IDS).logits, atol=1e-5)


def test_an_adapter_that_cannot_be_trained_is_refused(llama_path: str, tmp_path: Path) -> None:
    prompt_tuning = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    with pytest.raises(ValueError, match=r"such as a LoraConfig, got a PromptTuningConfig\. Virtual tokens"):
        make_trainer("ppo", llama_path, tmp_path, peft_config=prompt_tuning)


def test_a_policy_that_reads_the_padding_of_its_prompts_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recurrent = RwkvConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, context_length=64, eos_token_id=1)
    sizes = {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 64}
    positions = TrOCRConfig(vocab_size=64, max_position_embeddings=64, eos_token_id=1, **sizes)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    for model in (RwkvForCausalLM(recurrent), TrOCRForCausalLM(positions)):
        folder = tmp_path / type(model).__name__
        model.save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
        with pytest.raises(ValueError, match=rf"Padding on the left .* for {type(model).__name__}: what it computes"):
            make_trainer("reinforce", folder, tmp_path)


def test_a_mixture_of_experts_is_trained_only_where_its_coefficient_is_zero(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = MixtralConfig(vocab_size=64, num_key_value_heads=4, num_local_experts=2, eos_token_id=1, **sizes)
    MixtralForCausalLM(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"`router_aux_loss_coef` must be 0\.0 for a mixture .* got 0\.001, which may"
    ):
        make_trainer("reinforce", tmp_path, tmp_path / "out")
    trainer = make_trainer("reinforce", tmp_path, tmp_path / "out", router_aux_loss_coef=0.0, max_steps=1)
    trainer.train()
    assert trainer.state.global_step == 1


def test_a_reference_that_reads_the_padding_of_its_prompts_is_refused(gpt2_path: str, tmp_path: Path) -> None:
    recurrent = RwkvConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, context_length=64, eos_token_id=1)
    RwkvForCausalLM(recurrent).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"Padding on the left .* for RwkvForCausalLM: what it computes"):
        make_trainer("reinforce", gpt2_path, tmp_path, reference_model_name_or_path=str(tmp_path))


def test_an_adapter_on_experts_is_loaded_and_is_no_adapter_of_a_critic(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = MixtralConfig(vocab_size=64, num_key_value_heads=4, num_local_experts=2, eos_token_id=1, **sizes)
    MixtralForCausalLM(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    experts = ["experts.down_proj", "experts.gate_up_proj"]
    lora = LoraConfig(r=4, target_modules=["q_proj"], target_parameters=experts, task_type="CAUSAL_LM")
    options = {"peft_config": lora, "router_aux_loss_coef": 0.0, "learning_rate": 5e-2}
    trainer = make_trainer("ppo", tmp_path, tmp_path / "out", critic="shared", **options)
    trainer.train()
    trainer.save_model()
    trainer.model.eval()
    loaded = load_model(tmp_path / "out").eval()(IDS).logits
    assert torch.allclose(loaded, trainer.model(input_ids=IDS).logits, atol=1e-4)
    assert not torch.allclose(loaded, load_model(tmp_path).eval()(IDS).logits, atol=1e-3)
    with pytest.raises(
        ValueError, match=r"`critic='adapter'` must be used with plain LoRA .* experts, .* at '.*experts"
    ):
        make_trainer("ppo", tmp_path, tmp_path / "out", critic="adapter", **options)


@pytest.fixture
def adapter_path(llama_path: str, tmp_path: Path) -> str:
    """Returns the folder of an adapter that differs from its base, as supervised training leaves it."""
    lora = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(load_model(llama_path), lora).save_pretrained(tmp_path / "adapter")
    tiny_tokenizer().save_pretrained(tmp_path / "adapter")
    return str(tmp_path / "adapter")


@pytest.mark.parametrize("critic", ["shared", "adapter", "separate"])
def test_an_adapter_is_trained_further_with_each_critic_and_saved_for_its_base(
    critic: str, adapter_path: str, llama_path: str, tmp_path: Path
) -> None:
    start = load_model(adapter_path).eval()
    trainer = make_trainer("ppo", adapter_path, tmp_path, critic=critic, learning_rate=1e-2, num_iterations=1)
    backbone = trainer.model.get_base_model().critic.backbone
    if backbone is not None:  # of the policy as it is given, and not of its base
        states = backbone.eval()(IDS).last_hidden_state
        assert torch.allclose(states, start.model(IDS).last_hidden_state, atol=1e-5)
    trainer.train()
    trainer.save_model()
    assert trainer.state.log_history[0]["kl_per_sequence"] == pytest.approx(0.0, abs=1e-5)
    saved = AutoPeftModelForCausalLM.from_pretrained(tmp_path).eval()
    assert saved.peft_config["default"].base_model_name_or_path == llama_path
    trainer.model.eval()
    assert torch.allclose(saved(IDS).logits, trainer.model(IDS).logits, atol=1e-5)
    assert not torch.allclose(saved(IDS).logits, start(IDS).logits, atol=1e-4)


def test_a_second_adapter_is_refused(adapter_path: str, tmp_path: Path) -> None:
    lora = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    with pytest.raises(
        ValueError, match=r"`peft_config` must be None for a policy that has an adapter, .* LoraConfig"
    ):
        make_trainer("ppo", adapter_path, tmp_path, peft_config=lora)
    named = AutoPeftModelForCausalLM.from_pretrained(adapter_path, adapter_name="tone", is_trainable=True)
    with pytest.raises(ValueError, match=r"`model` must have its adapter under the name 'default', got \['tone'\]"):
        make_trainer("ppo", named, tmp_path, processing_class=tiny_tokenizer())
