"""SAVE and REF: what is saved comes back, and the reference stays where the policy started."""

import logging
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig
from training import ALGORITHMS, LEARNED, make_trainer
from transformers import AutoModelForCausalLM, AutoTokenizer

from lmrl.critics import CRITIC_FILE, get_critic

IDS = torch.tensor([[6, 7, 8, 9, 10, 11, 12]])


def _lora(**options: object) -> LoraConfig:
    return LoraConfig(r=4, target_modules=["c_attn"], task_type="CAUSAL_LM", **options)


def _scores(trainer: object) -> tuple[torch.Tensor, torch.Tensor]:
    model = trainer.model.eval()
    inputs = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "completion_length": 3}
    out = model(**inputs, with_values=trainer.has_critic)
    return out.log_probs.detach(), None if out.state_values is None else out.state_values.detach()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_saved_policy_is_a_plain_model(
    algorithm: str, gpt2_path: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(algorithm, gpt2_path, tmp_path, learning_rate=1e-2, **LEARNED[algorithm])
    trainer.train()
    trainer.save_model()
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        model, loading = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
        assert not caplog.records
    assert not any(loading.values()), loading
    AutoTokenizer.from_pretrained(tmp_path)
    own = trainer.model.eval()(IDS).logits
    assert torch.allclose(model.eval()(IDS).logits, own, atol=1e-5)
    assert (tmp_path / CRITIC_FILE).exists() == (algorithm == "ppo")


@pytest.mark.parametrize(
    ("critic", "lora"),
    [("shared", False), ("separate", False), ("shared", True), ("separate", True), ("adapter", True)],
)
def test_a_checkpoint_brings_policy_and_critic_back(critic: str, lora: bool, gpt2_path: str, tmp_path: Path) -> None:
    options = {"critic": critic, "learning_rate": 1e-2, "save_strategy": "steps", "save_steps": 2}
    peft = {"peft_config": _lora()} if lora else {}
    trainer = make_trainer("ppo", gpt2_path, tmp_path, **options, **peft)
    trainer.train()
    log_probs, values = _scores(trainer)
    again = make_trainer("ppo", gpt2_path, tmp_path, **options, **({"peft_config": _lora()} if lora else {}))
    assert not torch.allclose(_scores(again)[1], values, atol=1e-4)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))  # the end of the run: no step is left
    assert torch.allclose(_scores(again)[0], log_probs, atol=1e-6)
    assert torch.allclose(_scores(again)[1], values, atol=1e-6)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_saved_adapter_loads_on_its_base(algorithm: str, gpt2_path: str, tmp_path: Path) -> None:
    trainer = make_trainer(algorithm, gpt2_path, tmp_path, learning_rate=1e-2, peft_config=_lora())
    trainer.train()
    trainer.save_model()
    model = AutoPeftModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.allclose(model(IDS).logits, trainer.model.eval()(IDS).logits, atol=1e-6)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_after_training_the_reference_is_the_policy_at_the_start(
    algorithm: str, lora: bool, gpt2_path: str, tmp_path: Path
) -> None:
    trainer = make_trainer(
        algorithm, gpt2_path, tmp_path, learning_rate=1e-2, max_steps=4, **({"peft_config": _lora()} if lora else {})
    )
    start = AutoModelForCausalLM.from_pretrained(gpt2_path).eval()(IDS).logits
    trainer.train()
    trainer.model.eval()
    if lora:
        with trainer.model.disable_adapter():
            reference = trainer.model(IDS).logits
    else:
        reference = trainer.ref_model(input_ids=IDS).logits
    assert torch.allclose(reference, start, atol=1e-6)
    assert not torch.allclose(trainer.model(IDS).logits, start, atol=1e-3)


def test_policy_and_reference_share_no_memory(gpt2_path: str, tmp_path: Path) -> None:
    trainer = make_trainer("ppo", gpt2_path, tmp_path, critic="separate")
    pointers = [
        {parameter.data_ptr() for parameter in model.parameters()}
        for model in (trainer.ref_model, trainer.model.transformer, get_critic(trainer.model))
    ]
    assert not pointers[0] & pointers[1] and not pointers[1] & pointers[2]


def test_an_adapter_trained_further_is_held_to_itself_and_not_to_its_base(gpt2_path: str, tmp_path: Path) -> None:
    first = make_trainer("reinforce", gpt2_path, tmp_path / "first", learning_rate=5e-2, peft_config=_lora(), beta=0.0)
    first.train()
    first.save_model()
    adapter = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "first", is_trainable=True)
    trainer = make_trainer("reinforce", adapter, tmp_path / "second", num_iterations=2)
    trainer.train()
    assert trainer.state.log_history[0]["kl_per_sequence"] == pytest.approx(0, abs=1e-5)


def test_the_critic_learns_at_its_own_rate(gpt2_path: str, tmp_path: Path) -> None:
    rates = {"learning_rate": 1e-4, "critic_learning_rate": 3e-3}
    trainer = make_trainer("ppo", gpt2_path, tmp_path, critic="shared", **rates)
    optimizer = trainer.create_optimizer()
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in trainer.model.named_parameters():
        assert rates[id(parameter)] == (3e-3 if name.startswith("critic.") else 1e-4), name
    assert len(rates) == len(list(trainer.model.parameters()))
