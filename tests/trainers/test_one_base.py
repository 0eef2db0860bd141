"""One base for everything: policy, reference, critic and reward model as adapters of the same weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from training import ALGORITHMS, LEARNED, make_trainer
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BitsAndBytesConfig

from lmrl.models import load_model
from lmrl.rewards import RewardModel

IDS = torch.tensor([[6, 7, 8, 9, 10, 11, 12]])


def lora(**options: Any) -> LoraConfig:
    return LoraConfig(**{"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **options})


@pytest.fixture(scope="session")
def four_bits(llama_path: str) -> BitsAndBytesConfig:
    """Returns the configuration of weights in 4 bits; skips where bitsandbytes cannot run."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    try:
        load_model(llama_path, quantization_config=config)(IDS)
    except (RuntimeError, ImportError, NotImplementedError) as error:
        pytest.skip(f"bitsandbytes cannot run here: {error}")
    return config


@pytest.fixture(scope="session")
def reward_adapter(llama_path: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Returns the folder of a random reward model that is an adapter of the tiny Llama."""
    folder = tmp_path_factory.mktemp("reward")
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = AutoModelForSequenceClassification.from_pretrained(llama_path, num_labels=1)
        torch.nn.init.normal_(model.score.weight)
        model = get_peft_model(model, lora(task_type="SEQ_CLS", init_lora_weights=False))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(llama_path).save_pretrained(folder)
    return str(folder)


def base_weights(model: Any) -> dict[str, torch.Tensor]:
    frozen = {name: weight for name, weight in model.named_parameters() if not weight.requires_grad}
    return {name: weight.detach().clone() for name, weight in frozen.items()}


@pytest.mark.parametrize(("algorithm", "critic"), [("reinforce", None), ("ppo", "shared"), ("ppo", "adapter")])
def test_an_adapter_is_trained_on_a_base_in_4_bits(
    algorithm: str, critic: str | None, four_bits: BitsAndBytesConfig, llama_path: str, tmp_path: Path
) -> None:
    own = {"critic": critic} if critic else {}
    model = load_model(llama_path, quantization_config=four_bits)
    trainer = make_trainer(algorithm, model, tmp_path, learning_rate=1e-2, peft_config=lora(), **own)
    before = base_weights(trainer.model)
    assert any(weight.dtype == torch.uint8 for weight in before.values())
    start = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    assert {weight.dtype for weight in trainer.model.parameters() if weight.requires_grad} == {torch.float32}
    trainer.train()
    assert trainer.state.log_history[0]["kl_per_sequence"] == 0
    for name, weight in trainer.model.named_parameters():
        if name in before:
            assert torch.equal(weight, before[name]), name
        elif "lora_B" in name or ".up." in name:
            assert not torch.equal(weight, start[name]), name
    trainer.save_model()
    again = load_model(tmp_path, quantization_config=four_bits)
    assert torch.allclose(again.eval()(IDS).logits, trainer.model.eval()(IDS).logits, atol=1e-5)


def test_an_adapter_trained_further_in_4_bits_is_not_rounded(
    four_bits: BitsAndBytesConfig, llama_path: str, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    get_peft_model(load_model(llama_path), lora(init_lora_weights=False)).save_pretrained(tmp_path / "sft")
    model = load_model(tmp_path / "sft", trainable=True, quantization_config=four_bits)
    given = {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}
    trainer = make_trainer("reinforce", model, tmp_path, num_iterations=2)
    after = dict(trainer.model.named_parameters())
    assert given and all(torch.equal(after[name], weight) for name, weight in given.items())
    trainer.train()
    assert trainer.state.log_history[0]["kl_per_sequence"] == pytest.approx(0, abs=1e-5)


def test_an_adapter_that_is_not_trained_is_not_merged_into_4_bits(
    four_bits: BitsAndBytesConfig, llama_path: str, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    policy = get_peft_model(load_model(llama_path, quantization_config=four_bits), lora(init_lora_weights=False))
    policy.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, quantization_config=four_bits)
    assert torch.allclose(loaded(IDS).logits, policy(IDS).logits, atol=1e-6)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_checkpoint_of_an_adapter_trained_further_has_one_adapter(
    algorithm: str, gpt2_path: str, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    sft = get_peft_model(load_model(gpt2_path), lora(target_modules=["c_attn"], init_lora_weights=False))
    sft.save_pretrained(tmp_path / "sft")
    options: dict[str, Any] = {"learning_rate": 5e-2, "num_iterations": 1, "save_strategy": "steps", "save_steps": 2}

    def trainer(max_steps: int) -> Any:
        model = load_model(tmp_path / "sft", trainable=True)
        return make_trainer(algorithm, model, tmp_path / "out", max_steps=max_steps, **options)

    first = trainer(2)
    first.train()
    checkpoint = tmp_path / "out" / "checkpoint-2"
    assert (checkpoint / "adapter_model.safetensors").is_file()
    assert {path.name for path in checkpoint.iterdir() if path.is_dir()} <= {"critic"}
    resumed = trainer(3)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    resumed.model.eval()
    sft.eval()
    resumed.model.set_adapter("ref")
    assert torch.allclose(resumed.model(IDS).logits, sft(IDS).logits, atol=1e-5)
    assert resumed.state.log_history[-2]["kl_per_sequence"] != pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_reward_model_on_the_policys_base_trains_as_one_on_its_own(
    algorithm: str, llama_path: str, reward_adapter: str, tmp_path: Path
) -> None:
    logged, weights = [], []
    for shared in (True, False):
        reward = RewardModel(reward_adapter)
        given = reward if shared else lambda reward=reward, **inputs: reward(**inputs)
        options = {"learning_rate": 0.1, "optim": "sgd", "peft_config": lora()}  # Adam would blow rounding up
        # The critic is a trained one: a function around the reward has none of its progress, which a fitted one reads.
        trainer = make_trainer(algorithm, llama_path, tmp_path, given, **options, **LEARNED[algorithm])
        torch.manual_seed(3)
        trainer.train()
        assert reward._on_policy == shared
        logged.append([entry["reward"] for entry in trainer.state.log_history if "reward" in entry])
        weights.append({name: weight for name, weight in trainer.model.named_parameters() if weight.requires_grad})
        assert trainer.model.active_adapter == "default" and list(trainer.model.peft_config) == ["default"]
    assert len(logged[0]) >= 1 and logged[0] == pytest.approx(logged[1], abs=1e-4)
    for name, weight in weights[0].items():
        assert torch.allclose(weight, weights[1][name], atol=1e-3), name


def test_the_folder_of_an_adapter_is_trained_further(gpt2_path: str, tmp_path: Path) -> None:
    get_peft_model(load_model(gpt2_path), lora(target_modules=["c_attn"])).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(gpt2_path).save_pretrained(tmp_path)
    trainer = make_trainer("reinforce", str(tmp_path), tmp_path / "out", max_steps=1)
    trainer.train()
    trained = {name for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    assert len(trained) == 4 and all("lora" in name for name in trained)


def test_a_policy_trained_in_full_offers_no_base(llama_path: str, reward_adapter: str, tmp_path: Path) -> None:
    reward = RewardModel(reward_adapter)
    make_trainer("reinforce", llama_path, tmp_path, reward).train()
    assert not reward._on_policy and reward._model is not None


def test_the_critics_adapter_learns_at_the_critics_rate(gpt2_path: str, tmp_path: Path) -> None:
    own = {"critic": "adapter", "learning_rate": 1e-4, "critic_learning_rate": 3e-3}
    trainer = make_trainer("ppo", gpt2_path, tmp_path, peft_config=lora(target_modules=["c_attn"]), **own)
    rates = {id(p): group["lr"] for group in trainer.create_optimizer().param_groups for p in group["params"]}
    trained = {name: weight for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    assert any("critic.adapter." in name for name in trained) and len(rates) == len(trained)
    for name, weight in trained.items():
        assert rates[id(weight)] == (3e-3 if "critic." in name else 1e-4), name


def test_what_a_critic_with_an_adapter_cannot_do_is_a_sentence(gpt2_path: str, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"`critic` must be 'shared' or 'separate' for a policy without LoRA layers, got 'adapter'"
    ):
        make_trainer("ppo", gpt2_path, tmp_path, critic="adapter")
    reentrant = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    with pytest.raises(ValueError, match=r"`critic` must not be 'adapter' with reentrant gradient checkpointing"):
        make_trainer(
            "ppo", gpt2_path, tmp_path, critic="adapter", peft_config=lora(target_modules=["c_attn"]), **reentrant
        )
