"""Output folders of the recipes work without lmrl: loaded, sampled from, and served."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from lmrl.data import demo_rows
from lmrl.rewards import Classifier, RewardModel

HERE = Path(__file__).parent
SHORT = (
    *("--max_steps", "2", "--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "1"),
    *("--max_completion_length", "12", "--eval_rows", "4", "--eval_batch_size", "4", "--report_to", "none"),
)
BRIEF = ("--max_steps", "2", "--per_device_train_batch_size", "8", "--report_to", "none", "--save_strategy", "no")
LORA = ("--use_peft", "true", "--lora_r", "4", "--merge", "true")

Recipe = Callable[..., tuple[int, str, str]]


def run_jobs(jobs: list[dict[str, Any]], folder: Path) -> tuple[list[Any], str]:
    """Returns the result of each job in a process without lmrl, and what that process wrote to stderr."""
    done = subprocess.run(
        [sys.executable, str(HERE / "plain_worker.py")],
        input=json.dumps(jobs),
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout), done.stderr


def check_served(folder: Path) -> None:
    """
    Checks that a batch is padded for sampling, and the requirements of vLLM: it reads every `*.safetensors` beside
    config.json, each weight in it must be one of the architecture's, and the architecture one that it supports.
    """
    assert [path.name for path in folder.glob("*.safetensors")] == ["model.safetensors"]
    assert json.loads((folder / "tokenizer_config.json").read_text())["padding_side"] == "left"  # to sample a batch
    config = AutoConfig.from_pretrained(folder)
    assert config.architectures in (["GPT2LMHeadModel"], ["LlamaForCausalLM"])
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        names = set(weights.keys())
    known = AutoModelForCausalLM.from_config(config).state_dict().keys()
    assert names <= known and known - names <= {"lm_head.weight"}  # tied to the embedding


def write_rows(folder: Path) -> tuple[list[str], list[str]]:
    """Writes small files for all recipes; returns the held-out prompts of the first, and texts with labels."""
    pairs = [(a, b) for a in "abcd" for b in "efgh"]
    rows = [{"prompt": f"{a} {b}", "references": "b c d e f g h i j"} for a, b in pairs]
    graded = [{"prompt": f"a {word}", "chosen": f" {word} x", "rejected": f" {word} z"} for word in "cdefghij"]
    held_out = [{"prompt": prompt, "references": "b c d e"} for prompt in ("a b", "c", "d e f g", "h a")]
    for name, lines in {"rows": rows, "held_out": held_out, "pairs": graded}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "labels.tsv").write_text("".join(f"w{n} {w}\t{w}\n" for n in range(12) for w in ("good", "bad")))
    return [row["prompt"] for row in held_out], ["w1 good", "w2 w3 w4 bad bad", "w5"]


def test_trained_models_give_the_same_results_without_lmrl(recipe: Recipe, llama_path: str, tmp_path: Path) -> None:
    def run(name: str, *argv: str) -> Path:
        folder = f"out/{len(list((tmp_path / 'out').glob('*')))}"
        status, _, err = recipe(name, *argv, "--output_dir", folder)
        assert status == 0, err
        return tmp_path / folder

    prompts, texts = write_rows(tmp_path)
    rows = ("--dataset_name", "rows.jsonl", "--eval_dataset_name", "held_out.jsonl", "--learning_rate", "1e-2")
    own = ("--model_name_or_path", llama_path, *rows)
    demo_prompts = [row["prompt"] for row in demo_rows("test")[:4]]
    warm = run("sft", *own, *BRIEF)
    full = {run("reinforce_gen", *own, *SHORT): prompts, run("ppo_gen", *SHORT): demo_prompts}
    full |= {run("ppo_gen", *own, *SHORT): prompts}
    adapters = {run("ppo_gen", *SHORT, *LORA): demo_prompts, run("reinforce_gen", *own, *SHORT, *LORA): prompts}
    merged = {folder / "merged": lines for folder, lines in adapters.items()}
    labelled = ("--dataset_name", "labels.tsv", "--column_names", "text", "label", "--class_names", "bad", "good")
    classifier = run("train_classifier", *labelled, *BRIEF, "--eval_rows", "4", "--learning_rate", "1e-2")
    paired = ("--model_name_or_path", llama_path, "--dataset_name", "pairs.jsonl", "--learning_rate", "1e-2")
    reward_model = run("train_reward_model", *paired, *BRIEF)

    for folder in (warm, *full, *merged):
        check_served(folder)
    for folder in adapters:
        assert [path.name for path in folder.glob("*.safetensors")] == ["adapter_model.safetensors"]

    jobs = [
        {"what": "generate", "folder": str(folder), "prompts": lines, "length": 12}
        for folder, lines in {warm: prompts, **full, **adapters, **merged}.items()
    ]
    jobs += [{"what": "use", "card": str(folder / "README.md")} for folder in (*full, *adapters)]
    jobs.append({"what": "classify", "folder": str(classifier), "texts": texts, "function": "softmax"})
    read = ["a b c x<eos>", "a b d z<eos>"]
    jobs.append({"what": "classify", "folder": str(reward_model), "texts": read, "function": "none"})
    (of_warm, *found), errors = run_jobs(jobs, tmp_path)

    for word in ("missing", "unexpected", "mismatch", "newly initialized", "not initialized"):
        assert word not in errors.lower(), errors
    trained = [*full, *adapters]
    for folder, generated, printed in zip(trained, found[:5], found[7:12], strict=True):
        written = json.loads((folder / "after.json").read_text())["completions"]
        expected = [completion["text"] for completion in written]  # of the trainer's model
        assert len(set(expected)) > 1
        assert generated == {"loading": {}, "alone": expected, "batch": expected, "pipeline": expected}
        assert printed == expected[0] + "\n"
    assert found[5:7] == found[3:5]  # an adapter and its merged model agree
    expected = greedy_completions(warm, prompts)
    assert of_warm == {"loading": {}, "alone": expected, "batch": expected, "pipeline": expected}

    classes, grades = found[12:]
    assert not classes["loading"] and not grades["loading"]
    good = Classifier(str(classifier), "good")(completions=texts)
    assert [row["good"] for row in classes["scores"]] == pytest.approx(good, abs=1e-5)
    rewards = RewardModel(str(reward_model))(prompts=["a b", "a b"], completions=[" c x", " d z"])
    assert [row["reward"] for row in grades["scores"]] == pytest.approx(rewards, abs=1e-5)
    assert rewards[0] != pytest.approx(rewards[1], abs=1e-3)


@torch.no_grad()
def greedy_completions(folder: Path, prompts: list[str]) -> list[str]:
    """Returns greedy completions, sampled one token at a time."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    texts = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        for _ in range(12):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
            if ids[0, -1] == tokenizer.eos_token_id:
                break
        texts.append(tokenizer.decode(ids[0, len(tokenizer(prompt)["input_ids"]) :], skip_special_tokens=True))
    return texts
