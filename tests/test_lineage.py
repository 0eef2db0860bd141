"""The facts of a card about what a model was made from: all weights, LoRA, 4 bits, an adapter that went on."""

import gzip
import json

import pytest

from lmrl.experiment.lineage import lineage_of

ADAPTER = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": ["v_proj", "q_proj"], "use_dora": False}
LORA = "`r=8`, `lora_alpha=16`, `target_modules=q_proj, v_proj`"
GPT2 = "[openai/gpt2](https://huggingface.co/openai/gpt2)"


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """Makes the folder of a run on all weights of a model of the hub, and adapters on that run and on the hub's."""
    monkeypatch.chdir(tmp_path)
    for name, base in (("sft", None), ("on_hub", "openai/gpt2"), ("on_sft", "sft")):
        (tmp_path / name).mkdir()
        if base is not None:
            config = {**ADAPTER, "base_model_name_or_path": base}
            (tmp_path / name / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "sft" / "run.json").write_text(json.dumps({"model": {"model_name_or_path": "openai/gpt2"}}))
    rows = {"held_out": {"keys": []}, "trained_on": []}
    (tmp_path / "sft" / "rows.json.gz").write_bytes(gzip.compress(json.dumps(rows).encode()))


def facts(folder, start, **config):
    found = lineage_of(folder, {"model_name_or_path": start, "dtype": "float32", **config})
    return found.start, found.weights, found.base_model, found.is_adapter


def test_all_weights_of_a_model_of_the_hub_of_a_run_and_of_the_demo():
    weights = "All weights were trained: `dtype=float32`"
    assert facts("rl", "openai/gpt2") == (GPT2, weights, "openai/gpt2", False)
    assert facts("rl", "sft", bf16=True) == (
        f"`sft`, made from {GPT2}",
        f"{weights}, `bf16=True`",
        "openai/gpt2",
        False,
    )
    assert facts("rl", None) == ("`lmrl's demo`", weights, None, False)


def test_a_run_in_the_home_of_the_user_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert facts("rl", "~/sft")[2] == facts("rl", "~/on_sft")[2] == "openai/gpt2"


def test_an_adapter_names_its_base_and_its_settings():
    weights = f"LoRA on {GPT2}, whose own weights were not trained: {LORA}, `dtype=float32`"
    assert facts("on_hub", "openai/gpt2", use_peft=True) == (GPT2, weights, "openai/gpt2", True)
    _, weights, *_ = facts("on_hub", "openai/gpt2", use_peft=True, lora_target_modules="all-linear")
    assert weights.endswith("`lora_alpha=16`, `target_modules=all-linear`, `dtype=float32`")
    bits = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "use_bnb_nested_quant": False}
    _, weights, *_ = facts("on_hub", "openai/gpt2", use_peft=True, **bits)
    assert weights.startswith(f"LoRA on {GPT2} in 4 bits (`bnb_4bit_quant_type=nf4`), whose own weights")


def test_an_adapter_that_goes_on_from_an_adapter_names_both():
    start = "The adapter `on_sft` on `sft`"
    weights = "LoRA on `sft`, whose own weights were not trained, continued from the adapter `on_sft`: "
    assert facts("on_sft", "on_sft") == (start, f"{weights}{LORA}, `dtype=float32`", "openai/gpt2", True)
