"""The critic: its values before training, and saving and loading it."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_tokenizer
from training import make_trainer
from transformers import AutoModel, AutoModelForCausalLM, OPTConfig, OPTForCausalLM

from lmrl.critics import CRITIC_FILE, Critic, attach_critic, get_critic, load_critic, save_critic
from lmrl.models import add_scoring_forward, load_model

IDS = torch.tensor([[6, 7, 8, 9, 10, 11], [0, 0, 12, 13, 14, 15]])
MASK = (IDS != 0).long()


def with_critic(folder: str, separate: bool = False, seed: int = 0) -> torch.nn.Module:
    """Returns a policy with a critic whose last layer is not zero."""
    torch.manual_seed(seed)
    model = load_model(folder).eval()
    critic = attach_critic(model, AutoModel.from_pretrained(folder).eval() if separate else None)
    torch.nn.init.normal_(critic.value.weight)
    add_scoring_forward(model)
    return model


def values(model: torch.nn.Module) -> torch.Tensor:
    return model(input_ids=IDS, attention_mask=MASK, completion_length=3, with_values=True).state_values


@pytest.mark.parametrize("separate", [False, True])
def test_what_is_saved_comes_back(separate: bool, gpt2_path: str, tmp_path: Path) -> None:
    first, second = with_critic(gpt2_path, separate, seed=1), with_critic(gpt2_path, separate, seed=2)
    assert not torch.allclose(values(first), values(second), atol=1e-2)
    save_critic(first.critic.state_dict(), tmp_path)
    load_critic(second.critic, tmp_path)
    assert torch.equal(values(first), values(second))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / CRITIC_FILE]
    assert CRITIC_FILE == "critic/critic.safetensors"


def test_a_saved_shared_critic_is_its_head(gpt2_path: str, tmp_path: Path) -> None:
    save_critic(with_critic(gpt2_path).critic.state_dict(), tmp_path)
    assert {name: tuple(value.shape) for name, value in load_file(tmp_path / CRITIC_FILE).items()} == {
        "hidden.0.weight": (32,),
        "hidden.0.bias": (32,),
        "hidden.1.weight": (32, 32),
        "hidden.1.bias": (32,),
        "value.weight": (1, 32),
        "value.bias": (1,),
        "start": (),
    }


def test_a_critic_of_another_shape_is_refused(gpt2_path: str, tmp_path: Path) -> None:
    save_critic(Critic(16).state_dict(), tmp_path)
    with pytest.raises(
        ValueError,
        match=r"critic\.safetensors must have the shape of .*, got another.*\n.*size mismatch",
    ):
        load_critic(Critic(32), tmp_path)
    save_critic(Critic(32).state_dict(), tmp_path)
    with pytest.raises(ValueError, match=r"must have the shape of the one configured, got another.*\n.*backbone"):
        load_critic(with_critic(gpt2_path, separate=True).critic, tmp_path)


def test_a_checkpoint_without_a_critic_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be a folder with a critic, got one without .*`model_name_or_path`"):
        load_critic(Critic(32), tmp_path)


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("folder", ["gpt2_path", "llama_path"])
def test_the_folder_of_the_policy_stays_a_plain_one(
    folder: str, separate: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model = with_critic(request.getfixturevalue(folder), separate)
    model.save_pretrained(tmp_path)
    plain, loading = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loading.values()), loading
    assert torch.equal(plain.eval()(IDS).logits, model(IDS).logits)
    assert not any("critic" in name for name in load_file(tmp_path / "model.safetensors"))


def test_an_untrained_critic_gives_every_state_the_same_value(gpt2_path: str) -> None:
    model = load_model(gpt2_path).eval()
    critic = attach_critic(model)
    add_scoring_forward(model)
    assert values(model).tolist() == [[0.0] * 3] * 2
    critic.start_at(0.75)
    assert values(model).tolist() == [[0.75] * 3] * 2
    assert get_critic(model) is critic


def test_learning_values_does_not_move_the_policy(gpt2_path: str) -> None:
    for separate in (False, True):
        model = with_critic(gpt2_path, separate)
        values(model).sum().backward()
        moved = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.grad is not None}
        assert moved == {"critic"}
        backbone = [name for name, p in model.critic.named_parameters() if "backbone" in name and p.grad is not None]
        assert bool(backbone) == separate


def test_values_are_float32_outside_autocast(gpt2_path: str) -> None:
    model = with_critic(gpt2_path)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = values(model)
    assert found.dtype == torch.float32
    assert torch.allclose(found, values(model), atol=0.1)


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_it_reads_states_that_are_narrower_than_the_layers(critic: str, tmp_path: Path) -> None:
    """OPT-350m projects its states to the width of its embedding."""
    sizes = {"hidden_size": 32, "word_embed_proj_dim": 16, "ffn_dim": 32, "num_attention_heads": 2}
    tokens = {"vocab_size": 64, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    config = OPTConfig(**sizes, **tokens, num_hidden_layers=1, max_position_embeddings=64, do_layer_norm_before=False)
    OPTForCausalLM(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    trainer = make_trainer("ppo", str(tmp_path), tmp_path / "out", critic=critic, max_steps=1)
    trainer.train()
    assert trainer.model.critic.value.in_features == 16
    assert trainer.model.critic.value.weight.abs().max() > 0
