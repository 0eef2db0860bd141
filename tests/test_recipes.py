"""Every recipe and every configuration runs two steps for real, on tiny models, and leaves a complete model."""

import io
import json
import logging
import os
import re
import runpy
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
)
from transformers.utils import logging as transformers_logging
from trl import SFTConfig

from lmrl.arguments import (
    CheckpointArguments,
    ComparisonArguments,
    DataArguments,
    EvaluationArguments,
    HeldOutArguments,
    ModelArguments,
    RewardArguments,
    ScoringArguments,
    WarmStartEvaluationArguments,
)
from lmrl.cli import run
from lmrl.critics import CRITIC_FILE
from lmrl.data import demo_rows
from lmrl.evaluation import read_json
from lmrl.outputs import clear_run_folder
from lmrl.trainers import PPOConfig, ReinforceConfig

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ("sft", "reinforce_gen", "ppo_gen", "evaluate_gen")
LEARNED_RECIPES = ("train_classifier", "train_reward_model")  # these have test_learned_recipes.py
LEARNED_CONFIGS = ("sst2_classifier", "sst2_minilm", "webnlg_minilm", "webnlg_reward_model")
CONFIGS = (
    *("chat_smollm2", "demo_ppo", "demo_reinforce", "e2e_distill", "e2e_ppo", "e2e_reinforce", "e2e_smollm2"),
    *("gpt2_lora", "imdb_ppo", "sentiment_smollm2", "tinystories_sentiment"),
)

SHORT = (
    *("--max_steps", "2", "--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "1"),
    *("--max_completion_length", "12", "--eval_rows", "4", "--eval_batch_size", "4", "--report_to", "none"),
)

Recipe = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def footpaths(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with rows that have "mr", "references" and "text", of the words that the demo model knows."""
    folder = tmp_path_factory.mktemp("rows")
    for split, count in (("train", 16), ("test", 6)):
        rows = [
            {
                "mr": row["prompt"].removesuffix(" ->"),
                "references": row["references"],
                "text": row["references"][0],
            }
            for row in demo_rows(split)[:count]
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="session")
def classifier_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Returns the folder of a tiny random BERT that separates POSITIVE from NEGATIVE by the letters of a text."""
    folder = tmp_path_factory.mktemp("bert")
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(vocab=str(folder / "vocab.txt"), model_max_length=256).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=256,
        initializer_range=0.5,
        id2label={0: "NEGATIVE", 1: "POSITIVE"},
        label2id={"NEGATIVE": 0, "POSITIVE": 1},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


def check_printed(out: str, folder: Path) -> None:
    """The table with both columns, the files and the place of the model; and the files hold what they should."""
    assert re.search(r"metric +before \[95% CI\] +after \[95% CI\] +after - before \[95% CI\] +p \(Holm\)", out)
    assert f"Scores and completions: {folder}/before.json, {folder}/after.json\n" in out
    assert f"Report: {folder}/report.html\n" in out and (folder / "report.html").is_file()
    assert out.endswith(f"The model is in {folder}\n")
    for name in ("before", "after"):
        found = json.loads((folder / f"{name}.json").read_text())
        assert len(found["completions"]) == 4
        assert found["scores"]["perplexity"]["value"] > 1


def check_saved(folder: Path, prompt: str = "a b ->") -> None:
    """The folder is a plain model: nothing missing, nothing unexpected, and it generates."""
    model, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values()), loading
    generates(model, folder, prompt)


def generates(model: torch.nn.Module, folder: Path, prompt: str) -> None:
    """The model goes on from a prompt by four tokens."""
    inputs = AutoTokenizer.from_pretrained(folder)(prompt, return_tensors="pt")
    texts = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert texts.shape[1] == inputs["input_ids"].shape[1] + 4


def check_critic(folder: Path) -> None:
    """The critic lies in the policy's folder, and is one: it ends in a single value."""
    assert load_file(folder / CRITIC_FILE)["value.bias"].shape == (1,)


def rows_of(footpaths: Path) -> tuple[str, ...]:
    return (
        *("--dataset_name", str(footpaths / "train.jsonl"), "--eval_dataset_name", str(footpaths / "test.jsonl")),
        *("--prompt_template", "{mr} ->", "--reference_column", "references"),
    )


def chat_model(folder: Path) -> str:
    """Returns the folder of the demo model with a chat template of words that it knows."""
    model = shutil.copytree(ROOT / "lmrl" / "data" / "demo", folder / "chat_model")
    (model / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }} {% endfor %}->")
    return str(model)


def chat_rows(folder: Path) -> str:
    """Returns the folder of a few of the rows that the script makes; no word is on both sides."""
    rows_of = runpy.run_path(str(ROOT / "scripts" / "make_chat_rows.py"))["rows_of"]
    rows = {split: rows_of(split, count) for split, count in (("train", 400), ("test", 100))}
    words = {split: {word for row in rows[split] for word in row["words"]} for split in rows}
    assert not words["train"] & words["test"]
    assert len({tuple(sorted(row["words"])) for row in rows["train"]}) == 400
    assert rows_of("train", 400) == rows["train"]
    (folder / "chat_rows").mkdir()
    for split, found in rows.items():
        text = "".join(json.dumps(row) + "\n" for row in found[:16])
        (folder / "chat_rows" / f"{split}.jsonl").write_text(text)
    return str(folder / "chat_rows")


def labelled_rows(folder: Path) -> str:
    """Returns the folder of a few labelled sentences without a header."""
    (folder / "labelled").mkdir()
    for split in ("train", "dev", "test"):
        rows = "".join(f"{split} path {number} climbs in the autumn\t{number % 2}\n" for number in range(8))
        (folder / "labelled" / f"{split}.tsv").write_text(rows)
    return str(folder / "labelled")


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_trains_two_steps(
    name: str, recipe: Recipe, footpaths: Path, classifier_path: str, gpt2_path: str, tmp_path: Path
) -> None:
    demo = str(ROOT / "lmrl" / "data" / "demo")
    classifier = {"model": classifier_path, "label": "POSITIVE", "output": "log_odds", "use_prompt": True}
    other = json.dumps({"classifier": {"model": classifier_path, "label": 0, "name": "other"}})
    offline = {
        "chat_smollm2": (  # the demo model obeys no such instruction
            *("--model_name_or_path", chat_model(tmp_path), "--dataset_name", chat_rows(tmp_path)),
            *("--startup_checks", "false"),
        ),
        "demo_ppo": (),
        "demo_reinforce": (),
        "e2e_distill": (
            *("--model_name_or_path", demo, "--reference_model_name_or_path", demo),
            *rows_of(footpaths),
        ),
        "e2e_ppo": ("--model_name_or_path", demo, *rows_of(footpaths)),
        "e2e_reinforce": ("--model_name_or_path", demo, *rows_of(footpaths)),
        "e2e_smollm2": ("--model_name_or_path", demo, *rows_of(footpaths)),
        "gpt2_lora": ("--model_name_or_path", demo, *rows_of(footpaths)),
        "imdb_ppo": (
            *("--model_name_or_path", demo, "--dataset_name", str(footpaths)),
            *("--rewards", json.dumps({"classifier": classifier})),
        ),
        "sentiment_smollm2": (
            *("--model_name_or_path", demo, "--dataset_name", labelled_rows(tmp_path)),
            *("--rewards", json.dumps({"classifier": classifier}), "--eval_metrics", other),
        ),
        "tinystories_sentiment": (
            *("--model_name_or_path", demo, "--dataset_name", str(footpaths)),
            *("--rewards", json.dumps({"classifier": classifier}), "--eval_metrics", other),
        ),
    }[name]
    trainer = "ppo_gen" if "ppo" in name else "reinforce_gen"
    folder = tmp_path / "out"
    config = ROOT / "recipes" / "configs" / f"{name}.yaml"
    status, out, err = recipe(trainer, "--config", config, *SHORT, *offline, "--output_dir", folder)
    assert status == 0, err
    check_printed(out, folder)
    assert json.loads((folder / "trainer_state.json").read_text())["global_step"] == 2
    if name.endswith(("lora", "smollm2")):
        assert (folder / "adapter_model.safetensors").is_file()
    else:
        check_saved(folder)
    assert not (folder / CRITIC_FILE).exists()  # one that is fitted is in checkpoints alone


def test_no_configuration_is_left_out() -> None:
    names = {path.stem for path in (ROOT / "recipes" / "configs").glob("*.yaml")}
    assert names == {*CONFIGS, *LEARNED_CONFIGS, "demo_sft_to_ppo"}
    assert {path.stem for path in (ROOT / "recipes").glob("*.py")} == {*RECIPES, *LEARNED_RECIPES, "sweep"}


@pytest.mark.parametrize("trainer", ["reinforce_gen", "ppo_gen"])
@pytest.mark.parametrize("lora", [False, True])
def test_a_recipe_trains_a_given_model(
    trainer: str, lora: bool, recipe: Recipe, llama_path: str, tmp_path: Path
) -> None:
    letters = "abcdefghijklmnop"
    rows = [{"prompt": f"{a} {b}", "references": "b c d e f g h i j k l m"} for a in letters[:4] for b in letters[:4]]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = tmp_path / "out"
    argv = ("--model_name_or_path", llama_path, "--dataset_name", "rows.jsonl", "--output_dir", folder)
    own = ("--critic", "shared") if trainer == "ppo_gen" else ()
    tuned = ("--use_peft", "true", "--lora_r", "4") if lora else ()
    status, out, err = recipe(trainer, *SHORT, *argv, *own, *tuned)
    assert status == 0, err
    check_printed(out, folder)
    if lora:
        assert not (folder / "model.safetensors").exists()
        generates(AutoPeftModelForCausalLM.from_pretrained(folder), folder, "a b")
    else:
        check_saved(folder, "a b")
    if trainer == "ppo_gen":
        check_critic(folder)


def test_a_model_of_sft_is_trained_on_and_both_are_compared(recipe: Recipe, footpaths: Path, tmp_path: Path) -> None:
    warm, tuned, adapter = tmp_path / "warm", tmp_path / "tuned", tmp_path / "adapter"
    short = ("--max_steps", "2", "--per_device_train_batch_size", "4", "--report_to", "none", "--disable_tqdm", "true")
    short += ("--eval_metrics", "rouge1", "--win_rate", "rouge1", "bleu", '{"token_f1": {}}')
    status, out, err = recipe("sft", *rows_of(footpaths), *short, "--eval_subset", "4", "--output_dir", warm)
    assert status == 0, err
    assert "6 rows, the first 4 before and after training\n" in out
    assert f"Report: {warm}/report.html\n" in out and out.endswith(f"The model is in {warm}\n")
    card = (warm / "README.md").read_text()
    assert "supervised fine-tuning (SFT)" in card and "### Win rate" in card and "Win rate: after" in out
    found = [line["by"] for line in read_json(warm / "after.json").numbers["Win rate"]]
    assert found == ["reward/rouge1", "bleu", "reward/token_f1"] and r"| reward/token\_f1 | before |" in card
    before, after = (read_json(warm / f"{name}.json").scores for name in ("before", "after"))
    assert before["reference_perplexity"].value != after["reference_perplexity"].value > 1
    assert len(before["reference_perplexity"].row_scores) == len(before["bleu"].row_scores) == 4
    check_saved(warm)

    trained = ("--model_name_or_path", warm, *rows_of(footpaths), *SHORT)
    by_reward = ("--win_rate", "reward/bleu", "--eval_tie_tolerance", "1")
    assert recipe("reinforce_gen", *trained, *by_reward, "--output_dir", tuned)[0] == 0
    (line,) = read_json(tuned / "after.json").numbers["Win rate"]
    assert (line["ties"], line["tolerance"]) == (4, 1.0)
    check_saved(tuned)
    assert recipe("reinforce_gen", *trained, "--use_peft", "true", "--output_dir", adapter)[0] == 0

    checkpoints = ("--checkpoints", warm, f"rl={tuned}", f"lora={adapter}")
    argv = (
        *rows_of(footpaths)[2:],  # the held-out rows alone
        *checkpoints,
        "--eval_rows",
        "3",
        "--eval_max_new_tokens",
        "8",
        "--eval_output_dir",
        "scores",
    )
    status, out, err = recipe("evaluate_gen", *argv, "--eval_metrics", "chrf", '{"length": {"target": 9}}')
    assert status == 0, err
    assert re.search(r"metric +warm +rl +lora +rl - warm \[95% CI\] +p \(Holm\) +lora - warm \[95% CI\]", out)
    assert "reward/chrf" in out and "reward/length" in out
    for label in ("warm", "rl", "lora"):
        assert len(json.loads((tmp_path / "scores" / f"{label}.json").read_text())["completions"]) == 3


def test_evaluation_without_arguments_scores_the_demo_model(recipe: Recipe, tmp_path: Path) -> None:
    status, out, err = recipe("evaluate_gen", "--eval_rows", "3")
    assert status == 0, err
    assert re.search(r"metric +demo \[95% CI\]\n", out)
    assert json.loads((tmp_path / "runs" / "evaluation" / "demo.json").read_text())["decoding"]["max_new_tokens"] == 64


def test_checkpoints_of_one_name_are_refused(recipe: Recipe) -> None:
    status, _, err = recipe("evaluate_gen", "--checkpoints", "a/last", "b/last")
    assert (status, err) == (
        2,
        "error: `checkpoints` must have different labels, got 'last' twice. Write label=path.\n",
    )


def test_a_perplexity_model_has_its_own_tokenizer(recipe: Recipe, gpt2_path: str, tmp_path: Path) -> None:
    argv = ("--eval_perplexity_model", gpt2_path, "--output_dir", "out", *SHORT)
    status, _, err = recipe("reinforce_gen", *argv)
    assert status == 0, err
    score = json.loads((tmp_path / "out" / "before.json").read_text())["scores"]["perplexity"]
    # Ids of the demo's vocabulary of 640 would be out of that model's range of 64.
    assert score["signature"].startswith(f"model:{gpt2_path}|") and score["value"] > 1


def test_training_continues_from_a_checkpoint(
    recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saving = (*SHORT, "--save_strategy", "steps", "--save_steps", "1", "--output_dir", "out")
    assert recipe("ppo_gen", *saving)[0] == 0
    further = (*saving, "--max_steps", "3", "--resume_from_checkpoint", "out/checkpoint-2")
    status, _, err = recipe("ppo_gen", *further)
    assert status == 0, err
    history = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in history if "loss" in entry] == [1, 2, 3]
    assert [entry["step"] for entry in history if "eval_bleu" in entry] == [0]
    assert "Training goes on from out/checkpoint-2, after step 2." in caplog.text
    assert "missing keys" not in err + caplog.text and "began with other settings" not in caplog.text
    assert [line["step"] for line in log_of(tmp_path / "out") if "eval_bleu" in line] == [0, 3]
    others = ("--rewards", "chrf", "--max_train_rows", "40", "--resume_from_checkpoint", "latest")
    assert recipe("ppo_gen", *saving, "--max_steps", "4", *others)[0] == 0
    changes = "max_train_rows=40 (was None), rewards=['chrf'] (was ['bleu', 'rougeL'])"
    assert f"The run began with other settings. Taken: {changes}." in caplog.text
    # Where a run left no checkpoint, `latest` starts anew, whatever that run's settings were.
    (tmp_path / "new").mkdir()
    for name in ("run.json", "rows.json.gz"):
        shutil.copyfile(tmp_path / "out" / name, tmp_path / "new" / name)
    caplog.clear()
    anew = (*SHORT, "--save_strategy", "no", "--output_dir", "new", "--resume_from_checkpoint", "latest")
    assert recipe("ppo_gen", *anew)[0] == 0
    assert "training starts from the beginning" in caplog.text and "other settings" not in caplog.text
    # The same command would overwrite it all.
    status, out, err = recipe("ppo_gen", *saving)
    assert (status, out) == (2, "") and err.startswith(
        "error: `output_dir` must be a folder without the results of an"
    )
    (tmp_path / "out" / "notes.txt").write_text("of the user")
    clear_run_folder(tmp_path / "out", True, None, {})
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("lora", "critic"), [(False, "shared"), (True, "shared"), (True, "adapter")])
def test_the_checkpoint_that_is_best_on_held_out_rows_is_kept(
    lora: bool, critic: str, recipe: Recipe, tmp_path: Path
) -> None:
    measured = ("--eval_strategy", "steps", "--eval_steps", "1", "--eval_subset", "2", "--seed", "1")
    best = ("--metric_for_best_model", "length", "--greater_is_better", "false", "--load_best_model_at_end", "true")
    saving = ("--save_strategy", "steps", "--save_steps", "1", "--use_peft", str(lora), "--output_dir", "out")
    saving = (*saving, "--critic", critic)
    status, _, err = recipe(
        "ppo_gen", *SHORT, "--max_steps", "3", "--learning_rate", "1e-2", *measured, *best, *saving
    )
    assert status == 0, err
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    lengths = {entry["step"]: entry["eval_length"] for entry in state["log_history"] if "eval_length" in entry}
    assert list(lengths) == [0, 1, 2, 3]  # 0 is before training
    del lengths[0]
    assert state["best_metric"] == min(lengths.values())
    assert all("eval_reward/bleu" in entry for entry in state["log_history"] if "eval_length" in entry)
    found = json.loads((tmp_path / "out" / "after.json").read_text())["completions"]
    assert sum(completion["length"] for completion in found[:2]) / 2 == min(lengths.values())
    kept = tmp_path / "out" / f"checkpoint-{state['best_global_step']}"
    for name in (CRITIC_FILE, "adapter_model.safetensors" if lora else "model.safetensors"):
        left, best_one = load_file(tmp_path / "out" / name), load_file(kept / name)
        assert left.keys() == best_one.keys() and all(torch.equal(left[key], best_one[key]) for key in left), name


class ClosedPipe(io.StringIO):
    """A stdout whose reader has ended."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize(("stdout", "expected"), [("ascii", 0), ("closed", 2)])
def test_a_terminal_that_cannot_print_does_not_cost_the_model_card(
    stdout: str, expected: int, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = ClosedPipe() if stdout == "closed" else io.TextIOWrapper(io.BytesIO(), encoding=stdout)
    monkeypatch.setattr(sys, "stdout", stream)
    status, _, err = recipe("reinforce_gen", *SHORT, "--max_steps", "1", "--output_dir", "out")
    assert status == expected, err
    assert "fine-tuned by reinforcement learning" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    if stdout == "ascii":
        stream.flush()
        assert b"The model is in out" in stream.buffer.getvalue()
    else:
        assert "Broken pipe" in err


OWN = {
    "sft": (ModelArguments, DataArguments, WarmStartEvaluationArguments, SFTConfig),
    "reinforce_gen": (ModelArguments, DataArguments, RewardArguments, EvaluationArguments, ReinforceConfig),
    "ppo_gen": (ModelArguments, DataArguments, RewardArguments, EvaluationArguments, PPOConfig),
    "evaluate_gen": (CheckpointArguments, HeldOutArguments, ScoringArguments, ComparisonArguments),
}


@pytest.mark.parametrize("name", RECIPES)
def test_help_names_every_field_with_its_description(
    name: str, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    status, out, err = recipe(name, "--help")
    assert (status, err) == (0, "") and len(out.splitlines()) <= 120
    status, out, err = recipe(name, "--help", "all")
    assert (status, err) == (0, "")
    described = " ".join(out.split())
    for kind in OWN[name]:
        for field in (field for field in fields(kind) if field.init):
            assert f"--{field.name}" in out, field.name
            if field.name in kind.__annotations__ and kind is not SFTConfig:
                first = " ".join(field.metadata["help"].replace("%%", "%").split()[:5])
                assert first in described, field.name


@pytest.mark.parametrize("name", RECIPES)
def test_a_misspelt_argument_is_one_line(name: str, recipe: Recipe, tmp_path: Path) -> None:
    assert recipe(name, "--datset_name", "x") == (
        2,
        "",
        "error: Unknown argument `--datset_name`. Did you mean `--dataset_name`?\n",
    )
    (tmp_path / "own.yaml").write_text("datset_name: x\n")
    assert recipe(name, "--config", "own.yaml") == (
        2,
        "",
        "error: own.yaml: unknown name `datset_name`. Did you mean `dataset_name`?\n",
    )


def test_a_library_that_is_not_installed_is_one_line(recipe: Recipe) -> None:
    for argv, sentence in (
        (("--report_to", "swanlab"), "swanlab"),
        (("--use_vllm", "true"), "Please install vLLM"),
    ):
        status, _, err = recipe("reinforce_gen", *SHORT, *argv)
        last = err.strip().splitlines()[-1]
        assert status == 2 and last.startswith("error: ") and sentence in last


def test_a_warning_is_a_plain_sentence_and_loading_a_model_draws_no_bar() -> None:
    usual = warnings.formatwarning
    run(lambda: None)
    try:
        assert (
            warnings.formatwarning("`a` is deprecated.", FutureWarning, "parser.py", 3)
            == "warning: `a` is deprecated.\n"
        )
        of_first = logging.LogRecord("lmrl", logging.WARNING, "", 0, "[RANK 0] No completion ended.", (), None)
        assert logging.lastResort.format(of_first) == "No completion ended."
        assert transformers_logging.tqdm(["weight"], desc="Loading weights").disable
    finally:
        transformers_logging.set_tqdm_hook(None)
        warnings.formatwarning = usual


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_a_page_with_a_command_above(name: str) -> None:
    text = (ROOT / "recipes" / f"{name}.py").read_text()
    assert len(text.splitlines()) <= (50 if name in ("ppo_gen", "reinforce_gen") else 60)
    assert f"python recipes/{name}.py --help" in text.split('"""')[1]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_has_few_keys_and_a_header(name: str) -> None:
    text = (ROOT / "recipes" / "configs" / f"{name}.yaml").read_text()
    assert len(yaml.safe_load(text)) <= 40
    header = [line for line in text.splitlines() if line.startswith("#")]
    assert text.startswith("# ") and any(line.startswith("# Tested on: ") for line in header)
    command = next(line for line in header if line.startswith("#   accelerate launch recipes/"))
    assert ("ppo_gen.py" if "ppo" in name else "sft.py" if "e2e_smollm2" in name else "reinforce_gen.py") in command


def test_the_command_line_of_the_documentation_works(tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    launch = [str(Path(sys.executable).with_name("accelerate")), "launch", "--quiet", "--num_processes", "1", "--cpu"]
    command = [*launch, str(ROOT / "recipes" / "reinforce_gen.py"), *SHORT, "--output_dir", "out"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    check_saved(tmp_path / "out")
    assert done.stdout.endswith("The model is in out\n")
