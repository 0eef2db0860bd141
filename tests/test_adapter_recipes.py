"""The recipes with LoRA: the KL to the adapter they start from, a base in 4 bits, merging at the end."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from lmrl.arguments import ModelArguments
from lmrl.rewards import RewardModel

Recipe = Callable[..., tuple[int, str, str]]

SHORT = (
    *("--max_steps", "2", "--per_device_train_batch_size", "8", "--report_to", "none", "--disable_tqdm", "true"),
    *("--learning_rate", "1e-2", "--use_peft", "true", "--lora_r", "4"),
)
RL = (*("--gradient_accumulation_steps", "1", "--max_completion_length", "8", "--eval_rows", "4"),)
IDS = torch.tensor([[6, 7, 8, 9, 10, 11, 12]])


@pytest.fixture
def rows(tmp_path: Path) -> tuple[str, ...]:
    """Returns the arguments that name rows of single letters."""
    letters = "abcdefghijklmnop"
    found = [{"prompt": f"{a} {b}", "references": "b c d e f g h i j k l m"} for a in letters[:4] for b in letters[:4]]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    return ("--dataset_name", "rows.jsonl")


def logits(model: torch.nn.Module) -> torch.Tensor:
    return model.eval()(IDS).logits


def without_peft(argv: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns arguments without those of LoRA."""
    start = argv.index("--use_peft")
    return (*argv[:start], *argv[start + 4 :])


def first_log(folder: Path) -> dict[str, float]:
    """Returns what the first step logged, after the scores of the start."""
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return next(entry for entry in history if "loss" in entry)


@pytest.mark.parametrize("trainer", ["reinforce_gen", "ppo_gen"])
def test_a_run_from_an_adapter_trains_it_further_and_its_kl_is_to_the_adapter_and_not_to_its_base(
    trainer: str, recipe: Recipe, rows: tuple[str, ...], llama_path: str, tmp_path: Path
) -> None:
    sft, out = tmp_path / "sft", tmp_path / "out"
    own = {"ppo_gen": ("--critic", "adapter", "--num_iterations", "1"), "reinforce_gen": ()}[trainer]
    supervised = (*SHORT, "--model_name_or_path", llama_path, *rows, "--max_steps", "6", "--output_dir", sft)
    status, first, _ = recipe("sft", *supervised)
    assert status == 0
    assert "(LoRA of rank 4 on all linear layers)" in " ".join(first.split())
    assert "`target_modules=all-linear`" in (sft / "README.md").read_text()
    assert "all-linear" in (sft / "report.html").read_text()
    base = AutoModelForCausalLM.from_pretrained(llama_path)
    assert not torch.allclose(logits(AutoPeftModelForCausalLM.from_pretrained(sft)), logits(base), atol=0.1)

    # With the arguments of the first run, `use_peft` and those of LoRA among them, which are the adapter's.
    tuned = (*SHORT, *RL, "--model_name_or_path", sft, *rows, *own, "--output_dir", out)
    saving = ("--save_strategy", "steps", "--save_steps", "1", "--merge", "true")
    status, printed, err = recipe(trainer, *tuned, *saving)
    assert status == 0, err
    assert f"The merged model is in {out}/merged\n" in printed
    assert "(LoRA of rank 4 on all linear layers)" in " ".join(printed.split())
    assert first_log(out)["kl_per_sequence"] == pytest.approx(0, abs=1e-5)
    scores = {name: json.loads((out / f"{name}.json").read_text())["scores"] for name in ("before", "after")}
    assert scores["before"]["kl"]["value"] == pytest.approx(0, abs=1e-4)
    assert scores["after"]["kl"]["value"] > 1e-3
    folders = {path.name for path in out.iterdir() if path.is_dir()}
    assert folders - {"critic"} == {"checkpoint-1", "checkpoint-2", "merged"}
    assert not (out / "checkpoint-2" / "ref").exists()

    adapter = AutoPeftModelForCausalLM.from_pretrained(out)
    assert adapter.peft_config["default"].base_model_name_or_path == llama_path
    plain, loading = AutoModelForCausalLM.from_pretrained(out / "merged", output_loading_info=True)
    assert not any(loading.values()), loading
    assert torch.allclose(logits(plain), logits(adapter), atol=1e-4)
    assert AutoTokenizer.from_pretrained(out / "merged")("a b")["input_ids"]

    further = ("--max_steps", "3", "--resume_from_checkpoint", out / "checkpoint-2")
    status, _, err = recipe(trainer, *without_peft(tuned), *saving, *further)
    assert status == 0, err
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in history if "loss" in entry] == [1, 2, 3]
    assert first_log(out)["kl_per_sequence"] == pytest.approx(0, abs=1e-5)
    before = json.loads((out / "before.json").read_text())["scores"]["kl"]["value"]
    assert before == pytest.approx(0, abs=1e-4)  # the policy as given, not the one of the checkpoint


@pytest.mark.parametrize("trainer", ["reinforce_gen", "ppo_gen"])
def test_on_a_base_in_4_bits_the_merged_model_is_complete(
    trainer: str, recipe: Recipe, rows: tuple[str, ...], llama_path: str, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    out = tmp_path / "out"
    argv = (*SHORT, *RL, "--model_name_or_path", llama_path, *rows, "--output_dir", out)
    status, _, err = recipe(trainer, *argv, "--load_in_4bit", "true", "--merge", "true")
    assert status == 0, err
    assert first_log(out)["kl_per_sequence"] == 0
    before = json.loads((out / "before.json").read_text())["scores"]
    assert before["kl"]["value"] == pytest.approx(0, abs=1e-4)  # to the start in 4 bits, too
    merged = load_file(out / "merged" / "model.safetensors")
    assert {weight.dtype for weight in merged.values()} == {torch.float32}
    plain = AutoModelForCausalLM.from_pretrained(out / "merged")
    assert not hasattr(plain.config, "quantization_config")
    adapter = AutoPeftModelForCausalLM.from_pretrained(out, dtype="float32")
    assert torch.allclose(logits(plain), logits(adapter), atol=1e-4)
    assert not torch.allclose(logits(plain), logits(AutoModelForCausalLM.from_pretrained(llama_path)), atol=1e-3)


@pytest.mark.parametrize("four_bits", [False, True])
def test_a_reward_model_is_trained_as_an_adapter_and_used_as_one(
    four_bits: bool, recipe: Recipe, rows: tuple[str, ...], llama_path: str, tmp_path: Path
) -> None:
    if four_bits:
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    pairs = [{"prompt": f"{a} ", "chosen": "b c", "rejected": f"{a} {a} d"} for a in "abcdefghijklmnop"]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    scorer, out = tmp_path / "scorer", tmp_path / "out"
    argv = (*SHORT, "--model_name_or_path", llama_path, "--load_in_4bit", str(four_bits))
    status, printed, err = recipe(
        "train_reward_model", *argv, "--dataset_name", "pairs.jsonl", "--merge", "true", "--output_dir", scorer
    )
    assert status == 0, err
    assert f"The merged model is in {scorer}/merged\n" in printed
    texts = {"prompts": ["a b"] * 2, "completions": [" c d", " e"]}
    assert RewardModel(str(scorer / "merged"))(**texts) == pytest.approx(RewardModel(str(scorer))(**texts), abs=1e-5)
    assert AutoModelForSequenceClassification.from_pretrained(scorer / "merged").config.num_labels == 1

    reward = json.dumps({"reward_model": {"model": str(scorer), "quantized_base": four_bits}})
    status, _, err = recipe("reinforce_gen", *argv, *RL, *rows, "--rewards", reward, "--output_dir", out)
    assert status == 0, err
    assert "will load a base of its own" not in err


@pytest.mark.parametrize("name", ["sft", "reinforce_gen", "ppo_gen", "train_reward_model"])
def test_an_option_that_needs_an_adapter_is_refused_without_one(name: str, recipe: Recipe, tmp_path: Path) -> None:
    pairs = [{"prompt": f"{a} ", "chosen": "b c", "rejected": f"{a} d"} for a in "abcdefghijklmnop"]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    data = ("--dataset_name", "pairs.jsonl") if name == "train_reward_model" else ()
    status, _, err = recipe(name, *data, "--merge", "true", "--output_dir", "out")
    assert (status, err.startswith("error: `merge` must be used with an adapter, got none.")) == (2, True)
    status, _, err = recipe(name, *data, "--load_in_8bit", "true", "--output_dir", "out")
    assert (status, err.startswith("error: `load_in_8bit` must be false, got true: in 8 bits")) == (2, True)
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    status, _, err = recipe(name, *data, "--load_in_4bit", "true", "--output_dir", "out")
    last = err.strip().splitlines()[-1]
    assert (status, last.startswith("error: `load_in_4bit` must be used with an adapter, got none: quantized")) == (
        2,
        True,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--use_peft", "--lora_r", "8"),
            "`lora_r` must be that of the adapter '{}', 4, which is trained further, got 8",
        ),
        (("--lora_alpha", "8"), "`lora_alpha` must be that of the adapter '{}', 16, which is trained further, got 8"),
        (("--use_dora",), "`use_dora` must be that of the adapter '{}', False, which is trained further, got True"),
        (
            ("--use_peft", "--lora_target_modules", "q_proj", "k_proj"),
            "`lora_target_modules` must be that of the adapter '{}', ['q_proj'], which is trained further, got "
            "['q_proj', 'k_proj']",
        ),
        (
            ("--use_peft", "--lora_target_modules", "all-linear"),
            "`lora_target_modules` must be those of the adapter that is trained further, got all-linear, and "
            "base_model.model.model.layers.0.self_attn.k_proj and 11 others have none",
        ),
    ],
)
def test_settings_of_lora_that_are_not_those_of_the_adapter_are_refused(
    arguments: tuple[str, ...], message: str, recipe: Recipe, rows: tuple[str, ...], llama_path: str, tmp_path: Path
) -> None:
    adapter = tmp_path / "adapter"
    lora = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj"], task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(llama_path), lora).save_pretrained(adapter)
    AutoTokenizer.from_pretrained(llama_path).save_pretrained(adapter)
    status, _, err = recipe("ppo_gen", *rows, *RL, "--model_name_or_path", adapter, *arguments, "--output_dir", "out")
    last = err.strip().splitlines()[-1]
    assert (status, last.startswith(f"error: {message.format(adapter)}. Leave it out.")) == (2, True), last


def test_settings_of_lora_are_those_of_the_adapter_or_those_of_a_new_one(llama_path: str, tmp_path: Path) -> None:
    lora = LoraConfig(r=4, lora_alpha=16, lora_dropout=0.1, target_modules=["q_proj"], task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(llama_path), lora).save_pretrained(tmp_path)
    for options in ({}, {"use_peft": True}, {"lora_r": 4, "lora_target_modules": ["q_proj"]}):
        given = ModelArguments(model_name_or_path=str(tmp_path), **options)
        assert (given.lora_r, given.lora_alpha, given.lora_dropout, given.lora_target_modules) == (
            *(4, 16, 0.1),
            ["q_proj"],
        )
        assert given.peft_config() is None
    new = ModelArguments(model_name_or_path=llama_path, use_peft=True, lora_alpha=8).peft_config()
    assert (new.r, new.lora_alpha, new.lora_dropout, new.target_modules) == (16, 8, 0.0, "all-linear")
    assert ModelArguments(model_name_or_path=llama_path).peft_config() is None
