"""The forward of a supervised step: losses, gradients and logged values are those of TRL's own."""

from dataclasses import dataclass
from pathlib import Path

import forked
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertLMHeadModel,
    ElectraConfig,
    ElectraForCausalLM,
)
from trl import SFTConfig, SFTTrainer

from lmrl.distributed import gather
from lmrl.models import disable_dropout
from lmrl.supervised import RecipeConfig, add_supervised_forward

# Of different lengths, so that a mean of means is not the mean over tokens.
TEXTS = [("a b c d e", "f"), ("a b c d e", "h i j k l m n o"), ("p q", "r s t"), ("a b c d e", "y")]
ROWS = [{"prompt": f"{prompt} ", "completion": completion} for prompt, completion in TEXTS * 2]
LOGGED = ("loss", "entropy", "mean_token_accuracy", "num_tokens", "eval_loss", "eval_entropy")


@dataclass
class WarmStartConfig(RecipeConfig, SFTConfig):
    """The configuration of the recipe."""


def _train(path: str, folder: Path, by_lmrl: bool, with_lora: bool, **options: object) -> SFTTrainer:
    """Makes two steps of plain gradient descent, whose weights show its gradients."""
    settings = {"max_steps": 2, "per_device_train_batch_size": 2, "logging_steps": 1, "gradient_accumulation_steps": 2}
    exact = {"optim": "sgd", "learning_rate": 0.5, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
    quiet = {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "bf16": False}
    lora = LoraConfig(r=4, init_lora_weights=False, task_type="CAUSAL_LM") if with_lora else None
    model = AutoModelForCausalLM.from_pretrained(path)
    disable_dropout(model)
    trainer = SFTTrainer(
        model,
        SFTConfig(str(folder), **(settings | exact | quiet | options)),
        train_dataset=Dataset.from_list(ROWS),
        eval_dataset=Dataset.from_list(ROWS[:3]),
        processing_class=AutoTokenizer.from_pretrained(path),
        peft_config=lora,
    )
    if by_lmrl:
        add_supervised_forward(trainer.model)
    trainer.train()
    trainer.evaluate()
    _assert_precision_is_agreed(folder)
    if trainer.is_world_process_zero():
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: weight for name, weight in trainer.model.named_parameters() if weight.requires_grad}
        torch.save([weights, trainer.state.log_history], folder / "result.pt")
    return trainer


def _assert_precision_is_agreed(folder: Path) -> None:
    chosen = gather(WarmStartConfig(str(folder), report_to=[]).bf16)
    assert chosen[0] in (True, False)
    assert len(set(chosen)) == 1


def _assert_equal(folder: Path, names: tuple[str, ...] = LOGGED) -> None:
    (expected, expected_log), (found, log) = (
        torch.load(folder / name / "result.pt", weights_only=False) for name in ("trl", "lmrl")
    )
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for row, expected_row in zip(log, expected_log, strict=True):
        for name in set(names) & set(expected_row):
            assert row[name] == pytest.approx(expected_row[name], abs=1e-5), name


@pytest.mark.parametrize(
    ("model", "with_lora", "options"),
    [
        ("gpt2_path", False, {}),
        ("llama_path", True, {"gradient_checkpointing": False}),
        ("llama_path", False, {"loss_type": "dft"}),
    ],
)
def test_gradients_and_logged_values_are_those_of_trl(model, with_lora, options, request, tmp_path):
    path = request.getfixturevalue(model)
    _train(path, tmp_path / "trl", False, with_lora, **options)
    trainer = _train(path, tmp_path / "lmrl", True, with_lora, **options)
    _assert_equal(tmp_path)
    base = trainer.model.get_base_model() if with_lora else trainer.model
    assert base.base_model.pass_form == "shared"
    assert Path(base.forward.__code__.co_filename).name == "forward.py"  # it was not TRL's twice


def test_two_processes_make_the_step_that_trl_makes_on_one_with_twice_the_micro_batches(llama_path, tmp_path):
    _train(llama_path, tmp_path / "trl", False, False, gradient_accumulation_steps=4)
    forked.run(_train, llama_path, tmp_path / "lmrl", True, False, out=tmp_path / "out", processes=2)
    _assert_equal(tmp_path, names=("loss",))


def test_a_batch_without_labels_has_a_loss_of_zero_with_gradients(gpt2_path):
    model = AutoModelForCausalLM.from_pretrained(gpt2_path)
    add_supervised_forward(model)
    ids = torch.ones((1, 3), dtype=torch.long)
    scored = model(input_ids=ids, labels=torch.full_like(ids, -100), fused_lm_head=True)
    scored.loss.backward()
    assert scored.loss.item() == 0.0 and not scored.label_mask.any()
    assert all(not weight.grad.any() for weight in model.parameters() if weight.grad is not None)


@pytest.mark.parametrize(("config", "kind"), [(BertConfig, BertLMHeadModel), (ElectraConfig, ElectraForCausalLM)])
def test_a_model_with_a_layer_before_its_head_keeps_its_own_forward(config, kind):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = kind(config(vocab_size=32, embedding_size=8, is_decoder=True, **sizes)).eval()
    ids = torch.tensor([[5, 9, 2, 7]])
    expected = model(input_ids=ids, labels=ids).loss
    add_supervised_forward(model)
    assert "forward" not in vars(model)
    assert not model.training
    torch.testing.assert_close(model(input_ids=ids, labels=ids).loss, expected, rtol=0, atol=0)
