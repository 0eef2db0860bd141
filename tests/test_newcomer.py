"""What a newcomer gets wrong: one sentence with value, rule and remedy, before anything slow."""

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment, StrictUndefined, TemplateNotFound, UndefinedError

from lmrl.cli import run
from lmrl.display.templating import render as render_chart
from lmrl.evaluation.reporting.templating import render
from lmrl.experiment import weights_of_recipe
from lmrl.models import check_lora_targets, load_model
from lmrl.rewards import call_reward
from lmrl.search import SweepArguments
from lmrl.utils import failure_of

Recipe = Callable[..., tuple[int, str, str]]


def test_supervised_recipes_refuse_before_a_model_is_loaded(recipe: Recipe, tmp_path: Path) -> None:
    row = {"references": ["b"], "chosen": "b", "rejected": "c"}
    rows = [{"prompt": f"a {n}", "text": f"a {n}", "label": n % 2, **row} for n in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "none").mkdir()
    (tmp_path / "unfinished" / "checkpoint-5").mkdir(parents=True)
    best = ("--load_best_model_at_end", "true", "--eval_strategy", "epoch", "--save_strategy", "epoch")
    usual = ("--dataset_name", "rows.jsonl", "--output_dir", "out")
    for name in ("sft", "train_classifier", "train_reward_model"):
        for argv, message in (
            (
                (*best, "--metric_for_best_model", "bleu"),
                "`metric_for_best_model` must be one of loss, eval_loss, got 'bleu'.",
            ),
            (
                ("--resume_from_checkpoint", "true"),
                "must name a checkpoint, got true, but out has no complete one. Leave",
            ),
            (("--resume_from_checkpoint", "unfinished"), "is unfinished: trainer_state.json is missing."),
            (("--max_steps", "0"), "`max_steps` must be at least 1, or -1 for epochs, got 0."),
            (("--num_train_epochs", "0"), "`num_train_epochs` must be above 0, got 0.0."),
            (("--model_name_or_path", "none"), "(the folder has neither config.json nor adapter_config.json)."),
            (("--model_name_or_path", "nome"), "(there is no folder 'nome'. Did you mean `none`? From the hub: "),
            (("--model_name_or_path", "rows.jsonl"), "(it is a file, not a folder)."),
        ):
            status, _, err = recipe(name, *usual, *argv)
            assert status == 2 and message in err.splitlines()[-1], err
    status, _, err = recipe("evaluate_gen", "--checkpoints", "unfinished")
    assert status == 2 and "a run that has not ended. Did you mean `unfinished/checkpoint-5`?" in err


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (
            ["c_attn", "q_proj"],
            "must name layers of the model, got 'q_proj'. Its linear layers are c_attn, c_fc, c_proj;",
        ),
        (["attn"], None),
        ([r"transformer.h.0.attn.c_attn"], None),
        (r".*\.attn", None),
        (r".*q_proj", "must name layers of the model, got '.*q_proj'."),
        ("*attn", "must be names or a regular expression, got '*attn' (nothing to repeat at position 0)."),
        ("all-linear", None),
    ],
)
def test_layers_of_an_adapter_are_those_of_the_model(targets: Any, message: str | None, gpt2_path: str) -> None:
    model = load_model(gpt2_path)
    if message is None:
        check_lora_targets(model, targets)
        return
    with pytest.raises(ValueError, match=f"^`lora_target_modules` {re.escape(message)}"):
        check_lora_targets(model, targets)


@pytest.mark.parametrize(("returned", "shown"), [(1.0, "1.0"), ([1.0], "[1.0]"), (["x", "y"], "['x', 'y']")])
def test_a_reward_that_returns_no_list_of_numbers_is_named(returned: Any, shown: str) -> None:
    def own(completions: list[str], **_: Any) -> Any:
        return returned

    rule = "The reward 'own' must return a list of one number, or None, per completion"
    with pytest.raises(ValueError, match=re.escape(f"{rule}, got {shown} for a batch of 2.")):
        call_reward(own, completions=["a", "b"])


def test_a_reward_without_columns_gets_the_remedy() -> None:
    def own(completions: list[str]) -> list[float]:
        return [1.0 for _ in completions]

    inputs = {"completions": ["a"], "prompts": ["b"]}
    with pytest.raises(TypeError) as caught:
        own(**inputs)
    assert "end its arguments with `**columns`." in failure_of(caught.value, inputs)


def test_a_function_of_texts_that_gets_chats_is_pointed_to_on_text() -> None:
    def words(completions: list[Any], references: list[Any], **columns: Any) -> list[float]:
        pairs = zip(completions, references, strict=True)
        return [len(text.split()) / len(reference.split()) for text, reference in pairs]

    def failing(inputs: dict[str, Any]) -> str:
        with pytest.raises(AttributeError, match="'list' object has no attribute 'split'") as caught:
            words(**inputs)
        return failure_of(caught.value, inputs)

    pointer = "`lmrl.rewards.on_text` gives a function the texts."
    assert pointer in failing({"completions": [[{"role": "assistant", "content": "a"}]], "references": ["a"]})
    assert pointer not in failing({"completions": ["a"], "references": [["a"]]})


def test_an_error_of_a_report_is_not_taken_for_one_of_a_chat_template(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UndefinedError):
        run(lambda: render("card_sft.md"))
    with pytest.raises(TemplateNotFound):
        run(lambda: render_chart("none.svg"))
    chat = Environment(undefined=StrictUndefined).from_string("{{ messages[0].role }}")
    with pytest.raises(SystemExit):
        run(lambda: chat.render(messages=[{}]))
    assert capsys.readouterr().err.startswith("error: A chat template does not accept the messages of a row (")


RL = {"rewards": ["bleu"], "eval_metrics": None, "reward_weights": None}
SFT = {"eval_metrics": ["chrf"], "eval_perplexity_model": None}


@pytest.mark.parametrize(
    ("values", "objective", "message"),
    [
        (RL, "reward", None),
        (RL, "kl", None),
        (RL, "reward/chrf", "`objective` must be one of reward, reward/bleu, bleu, .*, got 'reward/chrf'"),
        (RL, "accuracy", "`objective` must be one of reward, bleu, .*, got 'accuracy'"),
        (SFT, "reference_perplexity", None),
        (SFT, "reward/chrf", None),
        (SFT, "reward", "`objective` must be one of reference_perplexity, bleu, .*, got 'reward'"),
        (SFT, "perplexity", "got 'perplexity'. Did you mean `reference_perplexity`?"),
        (SFT | {"eval_perplexity_model": "gpt2"}, "perplexity", None),
        ({"class_names": None}, "macro_f1", None),
        (
            {"class_names": None},
            "eval_loss",
            "one of accuracy, macro_f1, log_loss, calibration_error, got 'eval_loss'",
        ),
        ({"grade_columns": None}, "accuracy", None),
        ({"grade_columns": None}, "macro_f1", "one of accuracy, log_loss, calibration_error, got 'macro_f1'"),
        ({}, "my_score", None),
    ],
)
def test_an_objective_is_a_score_of_the_recipe(values: dict[str, Any], objective: str, message: str | None) -> None:
    args = SweepArguments(objective=objective)
    if message is None:
        assert weights_of_recipe(values, args, ["seed"]) == ([1.0] if "rewards" in values else None)
        if "rewards" not in values and values:
            with pytest.raises(ValueError, match=r"`max_kl` must be left out, got 1\.0: this recipe measures no KL"):
                weights_of_recipe(values, SweepArguments(objective=objective, max_kl=1.0), ["seed"])
    else:
        with pytest.raises(ValueError, match=re.escape(message).replace(r"\.\*", ".*")):
            weights_of_recipe(values, args, ["seed"])


def test_a_recipe_that_cannot_be_swept_is_refused() -> None:
    for name in ("ppo", "evaluate_gen", "sweep"):
        with pytest.raises(ValueError, match=f"`recipe` must be one of reinforce_gen, ppo_gen, .*, got '{name}'"):
            SweepArguments(recipe=name)
    with pytest.raises(ValueError, match=r"must be an existing script or one of .*, got 'nowhere\.py'"):
        SweepArguments(recipe="nowhere.py")


def test_a_kernel_that_bitsandbytes_misses_is_not_warned_of() -> None:
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    missing = "Failed to load CPU gemm_4bit_forward from kernels-community: No module named 'kernels'."
    assert not logger.filter(logging.makeLogRecord({"msg": missing}))
    assert logger.filter(logging.makeLogRecord({"msg": "Something else"}))
