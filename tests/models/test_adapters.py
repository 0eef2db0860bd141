"""The critic's own LoRA adapter: on the policy's layers, without an effect on the policy."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tiny import tiny_gpt2, tiny_llama, tiny_tokenizer
from transformers import AutoModelForCausalLM

from lmrl.critics import attach_critic, load_critic, save_critic
from lmrl.models import TrunkAdapter, add_scoring_forward, load_model, write_merged

IDS = torch.tensor([[6, 7, 8, 9, 10, 11], [0, 0, 12, 13, 14, 15]])
MASK = (IDS != 0).long()


def policy(folder: str, seed: int = 0, **lora: object) -> PeftModel:
    """Returns a policy whose adapter is not zero, with a critic that has an adapter, whose last layer is not zero."""
    torch.manual_seed(seed)
    config = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM", "init_lora_weights": False, **lora}
    model = get_peft_model(load_model(folder), LoraConfig(**config)).eval()
    critic = attach_critic(model.get_base_model(), adapter=TrunkAdapter(model.get_base_model()))
    torch.nn.init.normal_(critic.value.weight)
    add_scoring_forward(model.get_base_model())
    return model


def scored(model: PeftModel) -> tuple[torch.Tensor, torch.Tensor]:
    out = model(input_ids=IDS, attention_mask=MASK, completion_length=3, with_values=True)
    return out.log_probs, out.state_values


def critic_of(model: PeftModel) -> torch.nn.Module:
    return model.get_base_model().critic


def head_on(model: PeftModel) -> torch.Tensor:
    """Returns the values of the critic's head for the policy's own hidden states."""
    positions = (MASK.cumsum(1) - 1).clamp(min=0)
    states = model.get_base_model().base_model(IDS, attention_mask=MASK, position_ids=positions).last_hidden_state
    critic = critic_of(model)
    return critic.value(critic.hidden(states[:, 2:-1])).squeeze(-1)


@pytest.mark.parametrize("folder", ["gpt2_path", "llama_path"])
def test_it_starts_as_a_copy_of_the_policys(folder: str, request: pytest.FixtureRequest) -> None:
    model = policy(request.getfixturevalue(folder))
    assert torch.allclose(scored(model)[1], head_on(model), atol=1e-5)
    with model.disable_adapter():
        assert not torch.allclose(scored(model)[1], head_on(model), atol=1e-2)


@pytest.mark.parametrize("folder", ["gpt2_path", "llama_path"])
def test_what_the_critic_learns_does_not_move_the_policy_nor_the_policy_the_critic(
    folder: str, request: pytest.FixtureRequest
) -> None:
    model = policy(request.getfixturevalue(folder))
    log_probs, values = scored(model)
    values.sum().backward()
    moved = {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert moved and all("critic." in name for name in moved)
    assert {name.rsplit(".", 2)[1] for name in moved if "critic.adapter." in name} == {"down", "up"}
    with torch.no_grad():
        for weight in critic_of(model).parameters():
            weight.add_(0.1)
        assert torch.equal(scored(model)[0], log_probs)
        values = scored(model)[1]
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.add_(0.1)
        assert torch.equal(scored(model)[1], values)
        assert not torch.allclose(scored(model)[0], log_probs, atol=1e-2)


def test_peft_leaves_it_alone(gpt2_path: str, tmp_path: Path) -> None:
    model = policy(gpt2_path)
    values, own = scored(model)[1], list(critic_of(model).parameters())
    with model.disable_adapter():
        assert torch.equal(scored(model)[1], values)
    model.add_adapter("other", LoraConfig(r=2, target_modules=["c_attn"], task_type="CAUSAL_LM"))
    model.set_adapter("other")
    assert all(weight.requires_grad for weight in own)
    model.set_adapter("default")
    assert torch.equal(scored(model)[1], values)
    model.save_pretrained(tmp_path, selected_adapters=["default"])
    names = load_file(tmp_path / "adapter_model.safetensors")
    assert names and not any("critic" in name for name in names)
    logits = model(IDS).logits
    merged = model.merge_and_unload()
    assert torch.allclose(merged(IDS).logits, logits, atol=1e-4)


def test_it_is_saved_with_the_head_and_without_the_base(gpt2_path: str, tmp_path: Path) -> None:
    first, second = policy(gpt2_path), policy(gpt2_path)
    with torch.no_grad():
        for weight in critic_of(first).parameters():
            weight.add_(0.1)
    assert not torch.allclose(scored(first)[1], scored(second)[1], atol=1e-2)
    save_critic(critic_of(first).state_dict(), tmp_path)
    load_critic(critic_of(second), tmp_path)
    assert torch.equal(scored(first)[1], scored(second)[1])
    saved = load_file(next(tmp_path.rglob("*.safetensors")))
    shapes = [tuple(value.shape) for name, value in saved.items() if "h/0/attn/c_attn" in name]
    assert sorted(shapes) == [(4, 32), (96, 4)]


def test_gradient_checkpointing_changes_nothing(gpt2_path: str) -> None:
    found = []
    for checkpointing in (False, True):
        model = policy(gpt2_path)
        with torch.no_grad():
            for weight in critic_of(model).parameters():
                weight.add_(0.1)  # else it would be the policy's adapter, and that could stand in for it
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        log_probs, values = scored(model)
        (values.square().sum() + log_probs.sum()).backward()
        found.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert torch.allclose(gradient, found[1][name], atol=1e-4), name


def test_without_plain_lora_it_is_refused(gpt2_path: str) -> None:
    with pytest.raises(
        ValueError, match=r"`critic` must be 'shared' or 'separate' for a policy without LoRA layers, got 'adapter'"
    ):
        TrunkAdapter(load_model(gpt2_path))
    for lora in ({"use_dora": True}, {"target_modules": ["wte"]}):
        config = LoraConfig(**{"target_modules": ["c_attn"], "task_type": "CAUSAL_LM", **lora})
        with pytest.raises(ValueError, match=r"must be used with plain LoRA .*, got .* at 'transformer\."):
            TrunkAdapter(get_peft_model(load_model(gpt2_path), config).get_base_model())


@pytest.mark.parametrize("target", ["wte", "embed_tokens", "lm_head"])
def test_an_adapter_on_one_of_two_tied_weights_is_merged_into_that_one_only(target: str, tmp_path: Path) -> None:
    base = tiny_gpt2(tmp_path / "base") if target == "wte" else tiny_llama(tmp_path / "base", tie_word_embeddings=True)
    config = LoraConfig(r=4, target_modules=[target], task_type="CAUSAL_LM", init_lora_weights=False)
    trained = get_peft_model(load_model(base), config).eval()
    trained.save_pretrained(tmp_path / "adapter")
    tiny_tokenizer().save_pretrained(tmp_path / "adapter")
    expected = trained(IDS).logits
    assert not torch.allclose(expected, load_model(base).eval()(IDS).logits, atol=1e-1)
    merged = write_merged(tmp_path / "adapter")
    for model in (load_model(tmp_path / "adapter"), AutoModelForCausalLM.from_pretrained(merged)):
        assert torch.allclose(model.eval()(IDS).logits, expected, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_tokens_that_are_trained_alone_are_scored_as_they_are_sampled(tied: bool, tmp_path: Path) -> None:
    base = tiny_gpt2(tmp_path, tie_word_embeddings=tied)
    config = LoraConfig(r=4, target_modules=["c_attn"], task_type="CAUSAL_LM", trainable_token_indices=[11, 15])
    model = get_peft_model(load_model(base), config).eval()
    tokens = model.get_base_model().transformer.wte.token_adapter.trainable_tokens_delta["default"]
    with torch.no_grad():
        tokens.add_(1.0)
    logits = model(IDS[:1]).logits
    add_scoring_forward(model.get_base_model())
    inputs = {"input_ids": IDS[:1], "attention_mask": MASK[:1], "completion_length": 3}
    log_probs = model(**inputs).log_probs
    expected = logits[:, 2:5].log_softmax(-1).gather(2, IDS[:1, 3:].unsqueeze(2)).squeeze(2)
    assert torch.allclose(log_probs, expected, atol=1e-5)
    log_probs.sum().backward()
    assert tokens.grad.abs().min() > 0 or not tied
    with model.disable_adapter():
        reference = load_model(base).eval()(IDS[:1]).logits[:, 2:5].log_softmax(-1)
        expected = reference.gather(2, IDS[:1, 3:].unsqueeze(2)).squeeze(2)
        assert torch.allclose(model(**inputs).log_probs, expected, atol=1e-5)
