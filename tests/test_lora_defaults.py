"""What `--use_peft` means where nothing else is given: LoRA on all linear layers, at ten times the learning rate."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils.deepspeed import HfDeepSpeedConfig
from peft import IA3Config, LoraConfig, get_peft_model
from tiny import tiny_tokenizer
from training import make_trainer
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)
from trl import SFTConfig

from lmrl.arguments import DataArguments, ModelArguments
from lmrl.cli import parse
from lmrl.experiment import load_policy
from lmrl.experiment.banner import run_facts
from lmrl.experiment.policies import layers_text, layers_without_adapter
from lmrl.models import check_lora_targets, load_model
from lmrl.rewards import RewardModel
from lmrl.settings import lora_learning_rate
from lmrl.supervised import RecipeConfig, load_trainable_classifier
from lmrl.trainers import ReinforceConfig


@dataclass
class Supervised(RecipeConfig, SFTConfig):
    """The configuration of `recipes/sft.py`."""


def adapted(model: Any) -> set[str]:
    """Returns the names of the layers with LoRA, of the first block and outside of the blocks."""
    names = {name.partition(".lora_A")[0] for name, _ in model.named_modules() if ".lora_A" in name}
    return {name.removeprefix("base_model.model.") for name in names if ".1." not in name}


@pytest.mark.parametrize(
    ("folder", "block", "layers"),
    [
        ("gpt2_path", "transformer.h.0", ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]),
        (
            "llama_path",
            "model.layers.0",
            [*(f"self_attn.{name}_proj" for name in "qkvo"), *(f"mlp.{name}_proj" for name in ("gate", "up", "down"))],
        ),
    ],
)
def test_a_new_adapter_is_on_all_linear_layers_and_neither_on_embeddings_nor_the_head(
    folder: str, block: str, layers: list[str], request: pytest.FixtureRequest
) -> None:
    arguments = ModelArguments(model_name_or_path=request.getfixturevalue(folder), use_peft=True)
    model = get_peft_model(load_model(arguments.model_name_or_path), arguments.peft_config())
    assert adapted(model) == {f"{block}.{layer}" for layer in layers}
    assert layers_without_adapter(model) == []
    some = ModelArguments(use_peft=True, lora_target_modules=[layers[0]]).peft_config()
    one = get_peft_model(load_model(arguments.model_name_or_path), some)
    assert adapted(one) == {f"{block}.{layers[0]}"}
    assert len(layers_without_adapter(one)) == 2 * (len(layers) - 1)


def test_layers_of_several_blocks_are_one_in_a_text() -> None:
    assert layers_text({"h.0.attn.c_attn", "h.1.attn.c_attn", "h.10.mlp.c_fc"}) == "h.*.attn.c_attn, h.*.mlp.c_fc"
    assert (layers_text("all-linear"), layers_text(["v_proj", "q_proj"]), layers_text(None)) == (
        "all-linear",
        "q_proj, v_proj",
        "",
    )


@pytest.mark.parametrize(
    ("argv", "full", "with_lora"),
    [
        ((), 2e-5, 2e-4),
        (("--learning_rate", "2e-5"), 2e-5, 2e-5),
        (("--config", "learning_rate: 2.0e-5"), 2e-5, 2e-5),
    ],
)
def test_a_supervised_recipe_raises_its_default_and_no_rate_that_was_given(
    argv: tuple[str, ...], full: float, with_lora: float, gpt2_path: str, tmp_path: Path
) -> None:
    if argv[:1] == ("--config",):
        (tmp_path / "run.yaml").write_text(argv[1])
        argv = ("--config", str(tmp_path / "run.yaml"))
    usual = ("--model_name_or_path", gpt2_path, "--dataset_name", "demo", "--output_dir", str(tmp_path / "out"))
    for flag, expected in (("false", full), ("true", with_lora)):
        groups = parse(ModelArguments, DataArguments, Supervised, argv=[*usual, *argv, "--use_peft", flag])
        load_policy(groups[0], groups[2])
        assert groups[2].learning_rate == expected


LORA = LoraConfig(r=2, target_modules=["c_attn"], task_type="CAUSAL_LM")
IA3 = IA3Config(target_modules=["c_attn"], feedforward_modules=[], task_type="CAUSAL_LM")


@pytest.mark.parametrize(
    ("algorithm", "options", "adapter", "rate", "critic_rate"),
    [
        ("reinforce", {}, None, 1e-5, None),
        ("reinforce", {}, LORA, 1e-4, None),
        ("reinforce", {}, IA3, 1e-5, None),
        ("reinforce", {"learning_rate": 1e-5}, LORA, 1e-5, None),
        ("ppo", {}, LORA, 1e-4, None),
        ("ppo", {"critic": "shared"}, LORA, 1e-4, 2e-3),
        ("ppo", {"critic": "adapter"}, LORA, 1e-4, 1e-4),
        ("ppo", {"critic": "separate"}, LORA, 1e-4, 1e-5),
        ("ppo", {"critic": "separate", "learning_rate": 3e-4}, LORA, 3e-4, 3e-4),
        ("ppo", {"critic": "separate"}, None, 1e-5, 1e-5),
    ],
)
def test_a_trainer_has_the_rate_of_what_it_trains_and_leaves_the_configuration_as_it_was(
    algorithm: str,
    options: dict[str, Any],
    adapter: Any,
    rate: float,
    critic_rate: float | None,
    gpt2_path: str,
    tmp_path: Path,
) -> None:
    configs: list[Any] = []
    given = {"learning_rate": None, **options}
    trainer = make_trainer(algorithm, gpt2_path, tmp_path, peft_config=adapter, on_config=configs.append, **given)
    assert trainer.args.learning_rate == rate
    assert getattr(trainer.args, "critic_learning_rate", None) == critic_rate
    assert configs[0].learning_rate == given["learning_rate"]
    assert getattr(configs[0], "critic_learning_rate", None) is None


def test_the_banner_names_the_layers_and_the_rate_of_lora(gpt2_path: str, tmp_path: Path) -> None:
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = make_trainer("reinforce", gpt2_path, tmp_path, peft_config=lora, learning_rate=None)
    lines = run_facts(trainer, trainer.train_dataset, trainer.train_dataset, {})
    assert lines["model"].endswith(" (LoRA of rank 2 on all linear layers)")
    assert "; learning rate 0.0001 (10 times the default for all weights), constant" in lines["training"]


def test_a_rate_that_deepspeed_has_taken_over_is_not_raised_in_silence(tmp_path: Path) -> None:
    config = ReinforceConfig(str(tmp_path), report_to=[], use_cpu=True)
    assert config.learning_rate is None
    engine: dict[str, Any] = {"optimizer": {"type": "AdamW", "params": {"lr": "auto"}}, "train_batch_size": "auto"}
    config.hf_deepspeed_config = HfDeepSpeedConfig(engine)
    assert lora_learning_rate(config, 1e-5) == 1e-4
    config.hf_deepspeed_config.config["optimizer"]["params"]["lr"] = 1e-5
    with pytest.raises(ValueError, match=r"`learning_rate` must be given for LoRA where DeepSpeed's .* optimizer\."):
        config.choose_learning_rates(has_lora=True)
    config.choose_learning_rates(has_lora=False)
    assert config.learning_rate == 1e-5


def test_all_linear_layers_of_a_mixture_of_experts_are_not_its_experts(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = MixtralConfig(vocab_size=64, num_key_value_heads=4, num_local_experts=2, eos_token_id=1, **sizes)
    model = MixtralForCausalLM(config)
    with pytest.raises(
        ValueError,
        match=r"^`lora_target_parameters` must name the experts, .* Give experts\.down_proj experts\.gate_up_proj, or",
    ):
        check_lora_targets(model, "all-linear")
    check_lora_targets(model, ["q_proj"])
    experts = ["experts.down_proj", "experts.gate_up_proj"]
    check_lora_targets(model, "all-linear", experts)
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    lora = ModelArguments(use_peft=True, lora_target_parameters=experts).peft_config()
    options = {"router_aux_loss_coef": 0.0, "max_steps": 1, "peft_config": lora}
    trainer = make_trainer("reinforce", tmp_path, tmp_path / "out", **options)
    trainer.train()
    moved = {name for name, weight in trainer.model.named_parameters() if "lora_B" in name and weight.any()}
    assert {name.split(".lora_B")[0].rpartition("layers.0.")[2] for name in moved} >= {
        *(f"self_attn.{name}_proj" for name in "qkvo"),
        "mlp.experts",
        "mlp.experts.base_layer",
    }


@pytest.mark.parametrize("targets", ["all-linear", ["in_proj", "out_proj"]])
def test_layers_of_mamba_that_peft_refuses_are_named(targets: str | list[str]) -> None:
    model = MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, state_size=8))
    with pytest.raises(ValueError, match=r"must leave out 'out_proj' .* Give dt_proj in_proj x_proj\.$"):
        check_lora_targets(model, targets)
    check_lora_targets(model, ["dt_proj", "in_proj", "x_proj"])
    get_peft_model(model, LoraConfig(target_modules=["dt_proj", "in_proj", "x_proj"], task_type="CAUSAL_LM"))


def test_a_classifier_with_new_weights_under_its_head_takes_no_adapter(tmp_path: Path) -> None:
    sizes = {"vocab_size": 64, "dim": 32, "hidden_dim": 32, "n_layers": 1, "n_heads": 4, "pad_token_id": 0}
    DistilBertModel(DistilBertConfig(**sizes)).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"`use_peft` must be false for '.*', got true\. Its weights of pre_classifier"
    ):
        load_trainable_classifier(str(tmp_path), ["reward"], ["a b"], with_adapter=True)
    with pytest.raises(ValueError, match="`use_peft` must be false for 'scratch', got true"):
        load_trainable_classifier("scratch", ["reward"], ["a b"], with_adapter=True)


def test_an_adapter_of_a_bert_is_on_all_but_its_head_which_is_saved_with_it(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    BertModel(BertConfig(vocab_size=64, pad_token_id=0, **sizes)).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model, _ = load_trainable_classifier(str(tmp_path), ["reward"], ["a b"], with_adapter=True)
    check_lora_targets(model, "all-linear")
    arguments = ModelArguments(use_peft=True)
    arguments.lora_task_type = "SEQ_CLS"
    lora = arguments.peft_config()
    lora.init_lora_weights = False
    adapter = get_peft_model(model, lora).eval()
    assert layers_without_adapter(adapter) == []
    assert "classifier" not in adapted(adapter) and "bert.pooler.dense" in adapted(adapter)
    adapter.save_pretrained(tmp_path / "adapter")
    tiny_tokenizer().save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        ids = tiny_tokenizer()("a b <eos>", return_tensors="pt")["input_ids"]
        expected = adapter(input_ids=ids).logits.item()
    assert RewardModel(str(tmp_path / "adapter"))(completions=[" b"], prompts=["a"]) == pytest.approx(
        [expected], abs=1e-5
    )
