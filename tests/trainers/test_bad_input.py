"""Wrong input is refused before anything is trained, in a sentence with the rule, the value and the remedy."""

import json
import math
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from tiny import tiny_gpt2, tiny_tokenizer
from training import ALGORITHMS, LEARNED, PROMPTS, make_trainer, share_of_letters
from transformers import AutoModelForCausalLM, BertConfig, BertForSequenceClassification, LlamaModel

from lmrl.critics import CRITIC_FILE
from lmrl.data import demo_model_path
from lmrl.rewards import BLEU
from lmrl.trainers import PPOConfig, ReinforceConfig

ROOT = Path(__file__).resolve().parents[2]


def rewarding(values: Callable[[list[str]], Any]) -> Callable[..., Any]:
    """Returns a reward function of the completions alone, called `given`."""

    def given(completions: list[str], **_: Any) -> Any:
        return values(completions)

    return given


def refused(function: Callable[[], Any], *parts: str, error: type[Exception] = ValueError) -> None:
    """The call is refused, and each part is in the sentence, in this order."""
    with pytest.raises(error) as caught:
        function()
    sentence, place = str(caught.value), 0
    for part in parts:
        assert part in sentence[place:], f"{part!r} is not in {sentence!r}, or not in this order"
        place = sentence.index(part, place)


# -- rewards ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        (
            lambda texts: 1 / 0,
            [
                "raised ZeroDivisionError: division by zero",
                "scoring 8 completions",
                "See ",
                "test_bad_input.py, line ",
            ],
        ),
        (
            lambda texts: [1 / len(text[:0]) for text in texts],
            ["ZeroDivisionError", "row 0 of 8 (the first is 0), the completion '", " of the prompt '", "See "],
        ),
        (lambda texts: [1.0], ["one value per completion, None where", "got a list of 1 for a batch of 8"]),
        (lambda texts: ["good"] * len(texts), ["a finite number", "got 'good' for row 0", "of the prompt"]),
        (lambda texts: "a" * len(texts), ["must return a list of numbers", "got 'aaaaaaaa'"]),
        (lambda texts: None, ["must return a list of numbers", "got None"]),
        (lambda texts: 0.5, ["must return a list of numbers", "got 0.5"]),
        (lambda texts: (0.5 for _ in texts), ["must return a list of numbers", "got <generator"]),
        (lambda texts: [0.5] * 7 + [math.nan], ["a finite number, or None", "got nan for row 7"]),
        (lambda texts: [math.inf] + [0.5] * 7, ["a finite number, or None", "got inf for row 0"]),
        (lambda texts: [1j] * 8, ["a finite number", "got 1j for row 0"]),
        (lambda texts: [[0.5]] * 8, ["a finite number", "got [0.5] for row 0"]),
        (lambda texts: torch.ones(8, 2), ["a finite number", "got tensor([1., 1.]) for row 0"]),
    ],
)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_a_reward_returns_is_checked(
    algorithm: str, values: Callable[[list[str]], Any], parts: list[str], gpt2_path: str, tmp_path: Path
) -> None:
    trainer = make_trainer(algorithm, gpt2_path, tmp_path, reward=rewarding(values))
    refused(trainer.train, "The reward 'given'", *parts)
    assert trainer.state.global_step == 0


@pytest.mark.parametrize("wrong", [KeyError("slot"), math.nan, math.inf])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_reward_that_fails_in_the_third_step_leaves_the_first_two(
    algorithm: str, wrong: Any, gpt2_path: str, tmp_path: Path
) -> None:
    def flaky(completions: list[str], trainer_state: Any, **_: Any) -> list[float]:
        if trainer_state.global_step < 2:
            return share_of_letters(completions)
        if isinstance(wrong, Exception):
            raise wrong
        return [wrong] * len(completions)

    trainer = make_trainer(
        algorithm, gpt2_path, tmp_path, reward=flaky, max_steps=5, num_iterations=1, **LEARNED[algorithm]
    )
    kept = tmp_path / "checkpoint-2"
    what = "raised KeyError: 'slot'" if isinstance(wrong, Exception) else f"got {wrong} for row 0"
    refused(
        trainer.train, "The reward 'flaky' ", what, f"The 2 steps done so far are kept in {tmp_path}/checkpoint-2."
    )
    trained = {name: value for name, value in trainer.model.state_dict().items() if "critic." not in name}
    saved = AutoModelForCausalLM.from_pretrained(kept).state_dict()
    assert saved.keys() == trained.keys()
    assert all(torch.equal(saved[name], value) for name, value in trained.items())
    assert json.loads((kept / "trainer_state.json").read_text())["global_step"] == 2
    assert (kept / CRITIC_FILE).exists() == (algorithm == "ppo")


def test_rewards_that_never_apply_are_refused(gpt2_path: str, tmp_path: Path) -> None:
    trainer = make_trainer("ppo", gpt2_path, tmp_path, reward=rewarding(lambda texts: [None] * len(texts)))
    refused(trainer.train, "No reward applied to any completion", "every one returned None. Return a number for some")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_constant_reward_is_refused_unless_it_is_wanted(algorithm: str, gpt2_path: str, tmp_path: Path) -> None:
    constant = rewarding(lambda texts: [0.25] * len(texts))
    trainer = make_trainer(algorithm, gpt2_path, tmp_path, reward=constant)
    refused(trainer.train, "All 8 completions", "the reward 0.25", "nothing to learn", "startup_checks=False")
    control = make_trainer(algorithm, gpt2_path, tmp_path, reward=constant, startup_checks=False)
    assert control.train().global_step == 2


@pytest.mark.parametrize("wrong", ["bleu", torch.nn.Linear(1, 1), None, 5, [share_of_letters, "bleu"]])
def test_a_reward_is_a_function(wrong: Any, gpt2_path: str, tmp_path: Path) -> None:
    shown = repr(wrong[1] if isinstance(wrong, list) else wrong)
    refused(
        lambda: make_trainer("reinforce", gpt2_path, tmp_path, reward=wrong),
        "`reward_funcs` must have functions of prompts and completions",
        f"got {shown}",
        "lmrl.rewards.Classifier(model, label=...)",
        error=TypeError,
    )


def test_there_must_be_a_reward(gpt2_path: str, tmp_path: Path) -> None:
    refused(
        lambda: make_trainer("ppo", gpt2_path, tmp_path, reward=[]),
        "`reward_funcs` must have at least one reward, got none",
    )


# -- rows -------------------------------------------------------------------------------------------------------------


def test_a_column_that_a_reward_reads_must_be_there(gpt2_path: str, tmp_path: Path) -> None:
    def slots(completions: list[str], mr: list[str], **_: Any) -> list[float]:
        return share_of_letters(completions)

    for reward, column in ((BLEU(), "references"), (slots, "mr")):
        refused(
            lambda reward=reward: make_trainer("reinforce", gpt2_path, tmp_path, reward=reward),
            f"`train_dataset` must have the column {column!r}, which the reward ",
            "got only ['prompt']",
            "Rename the column",
        )
    rows = Dataset.from_list([{"prompt": prompt, "mr": prompt} for prompt in PROMPTS])
    refused(
        lambda: make_trainer(
            "reinforce", gpt2_path, tmp_path, slots, train_dataset=rows, eval_dataset=rows.remove_columns("mr")
        ),
        "`eval_dataset` must have the column 'mr', which the reward 'slots' reads, got only ['prompt']",
    )


def test_rows_have_a_prompt_that_is_not_empty(gpt2_path: str, tmp_path: Path) -> None:
    for rows, parts in (
        ([{"text": "a"}] * 4, ["`train_dataset` must have a column 'prompt', got only ['text']", "load_prompts"]),
        ([{"prompt": "a"}, {"prompt": ""}] * 2, ["Row 1 of train_dataset has an empty prompt", "at least one token"]),
    ):
        dataset = Dataset.from_list(rows)
        refused(lambda d=dataset: make_trainer("reinforce", gpt2_path, tmp_path, train_dataset=d), *parts)


@pytest.mark.parametrize("name", ["completions", "self", "log_metric", "image"])
def test_a_column_named_like_an_argument_of_rewards_is_refused(name: str, gpt2_path: str, tmp_path: Path) -> None:
    rows = Dataset.from_list([{"prompt": prompt, name: "x"} for prompt in PROMPTS])
    refused(
        lambda: make_trainer("reinforce", gpt2_path, tmp_path, train_dataset=rows),
        f"`train_dataset` must not have a column {name!r}",
        "Rename it",
    )


def test_a_prompt_that_the_chat_template_refuses_is_named(gpt2_path: str, tmp_path: Path) -> None:
    chats = [[{"role": "user", "content": "a"}], [{"role": "user", "content": "b", "name": 1}]] * 2
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.name %}{{ raise_exception('No names') }}{% endif %}a{% endfor %}"
    )
    refused(
        lambda: make_trainer(
            "reinforce",
            gpt2_path,
            tmp_path,
            train_dataset=Dataset.from_list([{"prompt": chat} for chat in chats]),
            processing_class=tokenizer,
        ),
        "The prompt of row 1 must be a chat that the tokenizer's chat template accepts, got [",
        "(TemplateError: No names)",
    )


def test_a_token_that_the_model_does_not_have_is_named(gpt2_path: str, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["kettle"])
    refused(
        lambda: make_trainer(
            "reinforce",
            gpt2_path,
            tmp_path,
            train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in [*PROMPTS[:3], "a kettle"]]),
            processing_class=tokenizer,
        ),
        "Token ids must be below 64, the size of the model's vocabulary, got 64 in row 3",
        "resize the model",
    )


def test_a_null_reference_is_named_with_its_column(gpt2_path: str, tmp_path: Path) -> None:
    rows = Dataset.from_list([{"prompt": prompt, "references": None} for prompt in PROMPTS])
    trainer = make_trainer("reinforce", gpt2_path, tmp_path, reward=BLEU(), train_dataset=rows)
    refused(trainer.train, "The reward 'bleu' raised", "every row of 'references'", "None", "Correct or drop the row")


def test_prompt_and_completion_must_fit_the_context(gpt2_path: str, tmp_path: Path) -> None:
    refused(
        lambda: make_trainer("reinforce", gpt2_path, tmp_path, max_completion_length=58),
        "`max_completion_length` must be at most 57, got 58",
        "The prompt of row 3 of train_dataset has 7 tokens, which makes 65, more than the model's context of 64",
    )
    assert make_trainer("reinforce", gpt2_path, tmp_path, max_completion_length=57).max_completion_length == 57


# -- settings ---------------------------------------------------------------------------------------------------------

BOTH = [
    ({"top_k": 3}, ["`top_k` must be 0 in training, got 3", "changes the distribution"]),
    ({"top_p": 0.9}, ["`top_p` must be 1.0 in training, got 0.9", "changes the distribution", "Leave it out."]),
    ({"min_p": 0.1}, ["`min_p` must be None in training, got 0.1", "changes the distribution"]),
    ({"repetition_penalty": 1.1}, ["`repetition_penalty` must be 1.0 in training, got 1.1", "the distribution"]),
    (
        {"generation_kwargs": {"min_new_tokens": 2}},
        ["`generation_kwargs` must have no options but [", "got 'min_new_tokens'", "change the distribution"],
    ),
    ({"temperature": 0.0}, ["`temperature` must be above 0, got 0.0"]),
    ({"beta": -0.1}, ["`beta` must be at least 0, got -0.1"]),
    ({"beta": 0.0, "kl_target": 2.0}, ["`kl_target` must be None with beta=0, got 2.0", "no reference is run"]),
    ({"beta": 0.0, "max_kl": 2.0}, ["`max_kl` must be None with beta=0, got 2.0", "no reference is run"]),
    ({"kl_scope": "text"}, ["`kl_scope` must be one of completion, token, got 'text'"]),
    (
        {"beta": 0.0, "kl_scope": "token"},
        ["`kl_scope` must not be set without `beta above 0`, got 'token': it would not be read"],
    ),
    ({"beta": 0.1, "kl_target": -2.0}, ["`kl_target` must be above 0, got -2.0"]),
    ({"beta": 0.1, "kl_target": 2.0, "kl_horizon": 1.0}, ["`kl_horizon` must be above 1.6, got 1.0"]),
    ({"kl_horizon": 50.0}, ["`kl_horizon` must not be set without `kl_target`, got 50.0: it would not be read"]),
    ({"ref_model_sync_steps": 2}, ["`ref_model_sync_steps` must not be set without `sync_ref_model`, got 2"]),
    ({"reward_clip_range": (1.0, -1.0)}, ["`reward_clip_range` must be two numbers, the lower one first, got (1.0"]),
    ({"max_completion_length": 0}, ["`max_completion_length` must be at least 1, got 0"]),
    ({"max_completion_length": None}, ["`max_completion_length` must be a number, got None. Leave it out"]),
    (
        {"num_generations": 3},
        ["`num_generations` must divide the 8 completions of a rollout, got 3"],
    ),
    (
        {"num_generations_eval": 3, "eval_strategy": "steps", "eval_steps": 1},
        ["`num_generations_eval` must divide the 8 completions", "got 3", "the batch size per device"],
    ),
    ({"target_kl": 0.1, "num_iterations": 1}, ["`target_kl` must be None where a rollout serves one update, got 0.1"]),
    ({"kl_estimator": "k2"}, ["`kl_estimator` must be one of k1, exact, got 'k2'"]),
    ({"kl_estimator": "exact", "beta": 0.0}, ["`kl_estimator` must not be set without `beta above 0`, got 'exact'"]),
    ({"target_kl": 0.0, "num_iterations": 2}, ["`target_kl` must be above 0, got 0.0"]),
    (
        {"target_kl": 0.1, "num_iterations": 2, "fp16": True, "use_cpu": False},
        ["`target_kl` must be None with fp16, got 0.1"],
    ),
    ({"generation_batch_size": 12}, ["`generation_batch_size` must be a multiple of 8, got 12", "on 1 processes"]),
    (
        {"generation_batch_size": 8, "steps_per_generation": 1},
        ["`generation_batch_size` must be None with steps_per_generation=1, got 8"],
    ),
]
REINFORCE = [
    ({"num_generations": 1}, ["`num_generations` must be at least 2", "got 1", "moving_average"]),
    (
        {"baseline": "mean"},
        ["`baseline` must be one of none, batch_mean, group_mean, leave_one_out, shrinkage, moving_average, "],
    ),
    ({"baseline": "batch_men"}, ["got 'batch_men'. Did you mean `batch_mean`?"]),
    (
        {"baseline": "moving_average", "baseline_decay": 1.0},
        ["`baseline_decay` must be in [0, 1), got 1.0"],
    ),
    (
        {"baseline": "group_mean", "num_generations": 1},
        ["`num_generations` must be at least 2 with baseline='group_mean', got 1."],
    ),
    ({"kl_estimator": "exact"}, ["`kl_estimator` must be 'k1' with loss_level='sequence', got 'exact'."]),
    ({"kl_scope": "token"}, ["`kl_scope` must be 'completion' with loss_level='sequence', got 'token'. All tokens"]),
    (
        {"shaping": "progress"},
        ["`shaping` must be None with loss_level='sequence', got 'progress'.", "set loss_level='token'."],
    ),
    ({"loss_level": "word"}, ["`loss_level` must be one of sequence, token, got 'word'"]),
    ({"loss_level": "token", "loss_type": "bnpo"}, ["`loss_type` must be one of dapo, grpo, dr_grpo, got 'bnpo'"]),
    ({"loss_type": "grpo"}, ["`loss_type` must not be set without `loss_level='token'`, got 'grpo'"]),
    ({"scale_rewards": "rollout"}, ["`scale_rewards` must be one of none, group, batch, got 'rollout'"]),
    (
        {"scale_rewards": "group", "num_generations": 1, "baseline": "none"},
        ["`num_generations` must be at least 2 with scale_rewards='group', got 1."],
    ),
    (
        {"scale_rewards": "group", "num_generations": 4, "baseline": "batch_mean"},
        ["`scale_rewards` must not be 'group' with baseline='batch_mean', got 'group'.", "take baseline='group_mean'"],
    ),
    (
        {"scale_rewards": "batch", "normalize_advantages": True},
        ["`scale_rewards` must be 'none' with normalize_advantages=True, got 'batch'."],
    ),
    ({"equal_groups_tolerance": 0.1}, ["`equal_groups_tolerance` must not be set without `drop_equal_groups`"]),
    (
        {"drop_equal_groups": True, "equal_groups_tolerance": -0.1},
        ["`equal_groups_tolerance` must be at least 0, got -0.1"],
    ),
    (
        {"drop_equal_groups": True, "num_generations": 1, "baseline": "none"},
        ["`drop_equal_groups` must be False with num_generations=1, got True."],
    ),
    (
        {"drop_equal_groups": True, "loss_level": "token", "shaping": "progress"},
        ["`drop_equal_groups` must be False with shaping='progress', got True. Dense rewards teach in texts of equal"],
    ),
    ({"resample_equal_groups": 2}, ["`resample_equal_groups` must not be set without `drop_equal_groups`, got 2"]),
    (
        {"drop_equal_groups": True, "resample_equal_groups": -1},
        ["`resample_equal_groups` must be at least 0, got -1"],
    ),
    (
        {"drop_equal_groups": True, "resample_equal_groups": 2, "baseline": "batch_mean"},
        ["`resample_equal_groups` must be 0 with baseline='batch_mean', got 2. Equal rewards may be above"],
    ),
    ({"baseline_decay": 0.5}, ["`baseline_decay` must not be set without `baseline='moving_average'`, got 0.5"]),
]
PPO = [
    ({"critic": "none"}, ["`critic` must be one of least_squares, shared, adapter, separate, got 'none'"]),
    (
        {"critic_model_name_or_path": "my/critic"},
        ["`critic_model_name_or_path` must be None with critic='least_squares', got 'my/critic'"],
    ),
    ({"vf_coef": 0.5}, ["`vf_coef` must not be set with `critic='least_squares'`, got 0.5"]),
    ({"cliprange_value": 0.3}, ["`cliprange_value` must not be set with `critic='least_squares'`, got 0.3"]),
    ({"critic_learning_rate": 1e-3}, ["`critic_learning_rate` must not be set with `critic='least_squares'`"]),
    ({"critic_warmup_steps": 5}, ["`critic_warmup_steps` must not be set with `critic='least_squares'`, got 5"]),
    ({"critic_extra_epochs": 2}, ["`critic_extra_epochs` must not be set with `critic='least_squares'`, got 2"]),
    ({"critic": "shared", "critic_warmup_steps": -1}, ["`critic_warmup_steps` must be at least 0, got -1"]),
    ({"critic": "shared", "critic_extra_epochs": -1}, ["`critic_extra_epochs` must be at least 0, got -1"]),
    (
        {"critic": "shared", "critic_warmup_steps": 5, "weight_decay": 0.1},
        ["`weight_decay` must be 0 with critic_warmup_steps=5, got 0.1"],
    ),
    (
        {"critic": "separate", "critic_extra_epochs": 2},
        ["`critic_extra_epochs` must be 0 with critic='separate', got 2", "critic='shared'"],
    ),
    (
        {"critic": "shared", "critic_extra_epochs": 2, "num_iterations": 1},
        ["`critic_extra_epochs` must be 0 for a rollout that serves one update, got 2", "raise `num_iterations`"],
    ),
    ({"critic": "shared", "critic_forgetting": 0.5}, ["`critic_forgetting` must not be set without `critic='least"]),
    ({"critic_forgetting": 0.0}, ["`critic_forgetting` must be in (0, 1], got 0.0"]),
    ({"gamma": 1.5}, ["`gamma` must be in [0, 1], got 1.5"]),
    ({"lam": -0.5}, ["`lam` must be in [0, 1], got -0.5"]),
    ({"cliprange_value": 0.0}, ["`cliprange_value` must be above 0, got 0.0"]),
]
CASES = [
    *((ReinforceConfig, settings, parts) for settings, parts in [*BOTH, *REINFORCE]),
    *((PPOConfig, settings, parts) for settings, parts in [*BOTH, *PPO]),
]


@pytest.mark.parametrize(("config", "settings", "parts"), CASES)
def test_a_setting_out_of_its_range_is_refused(
    config: type, settings: dict[str, Any], parts: list[str], tmp_path: Path
) -> None:
    settings_of_all = {"output_dir": str(tmp_path), "use_cpu": True, "per_device_train_batch_size": 8, **settings}
    refused(lambda: config(**settings_of_all), *parts)


@pytest.mark.parametrize("baseline", ["none", "batch_mean", "moving_average", "greedy"])
def test_one_completion_a_prompt_is_allowed_where_no_other_is_needed(
    baseline: str, gpt2_path: str, tmp_path: Path
) -> None:
    trainer = make_trainer("reinforce", gpt2_path, tmp_path, num_generations=1, baseline=baseline)
    assert trainer.train().global_step == 2


def test_ppo_takes_one_completion_a_prompt(gpt2_path: str, tmp_path: Path) -> None:
    assert PPOConfig(output_dir=str(tmp_path), use_cpu=True).num_generations == 1
    assert make_trainer("ppo", gpt2_path, tmp_path, num_generations=1).train().global_step == 2


def test_a_critic_of_another_vocabulary_is_refused(gpt2_path: str, tmp_path: Path) -> None:
    other = tiny_gpt2(tmp_path / "other", vocab_size=65)
    refused(
        lambda: make_trainer(
            "ppo", gpt2_path, tmp_path, critic="separate", critic_model_name_or_path=str(tmp_path / "other")
        ),
        f"`critic_model_name_or_path` must have the policy's vocabulary of 64 tokens, got {other!r} with 65",
        "leave it out to start from the policy",
    )
    trainer = make_trainer("ppo", gpt2_path, tmp_path, critic="separate", critic_model_name_or_path=gpt2_path)
    assert trainer.train().global_step == 2
    trainer.save_model()
    assert any(name.startswith("backbone.") for name in load_file(tmp_path / CRITIC_FILE))


# -- through a recipe: exit status 2 and one sentence, never a traceback ----------------------------------------------


@pytest.fixture
def failing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, gpt2_path: str
) -> Callable[..., str]:
    """Returns a function that runs a recipe on the tiny model, and returns the one sentence it stops with."""
    monkeypatch.chdir(tmp_path)
    rows = [
        {"mr": mr, "references": ["b c d e f g h"]} for mr in ("a b c", "d", "e f", "g h i j k l", "m n", "o", "p")
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    usual = {
        "--model_name_or_path": gpt2_path,
        "--dataset_name": "rows.jsonl",
        "--prompt_template": "{mr}",
        "--max_steps": "2",
        "--per_device_train_batch_size": "4",
        "--max_completion_length": "8",
        "--eval_rows": "2",
        "--output_dir": "out",
        "--disable_tqdm": "true",
    }

    def call(recipe: str, argv: dict[str, str | None], fails: bool = True) -> str:
        path = str(ROOT / "recipes" / f"{recipe}.py")
        words = [word for pair in {**usual, **argv}.items() if pair[1] is not None for word in pair]
        monkeypatch.setattr(sys, "argv", [path, *words])
        status = 0
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as stopped:
            status = stopped.code
        lines = capsys.readouterr().err.strip().splitlines()
        assert "Traceback" not in "".join(lines)
        assert status == (2 if fails else 0), lines
        return lines[-1] if lines else ""

    return call


@pytest.mark.parametrize("recipe", ["reinforce_gen", "ppo_gen"])
@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        ({"--dataset_name": "no.jsonl"}, ["There is no file or folder", "no.jsonl", "Check the spelling"]),
        ({"--eval_dataset_name": "no.jsonl"}, ["There is no file or folder", "no.jsonl", "Check the spelling"]),
        ({"--dataset_train_split": "no"}, ["must be one of ['train']", "got 'no'"]),
        ({"--prompt_template": "{mrs}"}, ["`prompt_template` must name one of", "got 'mrs'", "Did you mean `mr`?"]),
        (
            {"--reference_column": "reference"},
            ["`reference_column` must name", "got 'reference'", "`references`?"],
        ),
        ({"--max_completion_length": "60"}, ["`max_prompt_length`", "got 4, and", "lower `max_completion_length`"]),
        (
            {"--max_completion_length": "64"},
            ["`max_completion_length` must be below", "context of 64 tokens", "got 64"],
        ),
        ({"--max_prompt_length": "5"}, ["got 5, and 1 of", "prompts are longer", "'drop', 'cut' or"]),
        ({"--eval_max_new_tokens": "99"}, ["64 positions, got 6 + 99 tokens", "or less"]),
        ({"--eval_rows": "7"}, ["`eval_rows` must be from 1 to 6", "got 7"]),
        ({"--num_generations": "3"}, ["`num_generations` must divide the 4 completions of a rollout, got 3"]),
        ({"--beta": "-1"}, ["`beta` must be at least 0, got -1.0"]),
        ({"--temperature": "0"}, ["`temperature` must be above 0, got 0.0"]),
        ({"--top_k": "5"}, ["`top_k` must be 0 in training, got 5"]),
        ({"--rewards": "blue"}, ["got 'blue'", "Did you mean `bleu`?"]),
        ({"--rewards": "own.py:f"}, ["must exist", "own.py"]),
        ({"--rewards": '{"length": {}}'}, ["'length' needs ['target']"]),
        (
            {"--rewards": '{"classifier": {"model": "./no", "label": 1}}'},
            ["must be a sequence classifier", "'./no'", "Give a hub id"],
        ),
        ({"--rewards": "bleu", "--eval_metrics": "bleu"}, ["different names, got 'bleu' twice", "another `name`"]),
        ({"--rewards": "bleu", "--reward_weights": "[1,2]"}, ["`reward_weights` must be a number, got '[1,2]'"]),
        (
            {"--model_name_or_path": "./no"},
            ["`model_name_or_path` must be a hub id or an existing folder, got './no'", "Check the name"],
        ),
        (
            {"--lora_target_modules": "no", "--use_peft": "true"},
            ["`lora_target_modules` must name layers of the model, got 'no'", "c_attn, c_fc, c_proj"],
        ),
        ({"--lora_target_modules": "*", "--use_peft": "true"}, ["or a regular expression, got '*' (nothing to rep"]),
        ({"--rewards": "bleu,chrf"}, ["names with spaces between them, got 'bleu,chrf'"]),
        ({"--prompt_template": "mr ->"}, ["at least 2 different prompts, got 1 in 7 rows, 'mr ->'"]),
        (
            {"--eval_perplexity_model": "./no"},
            ["`eval_perplexity_model` must be a hub id or an existing folder, got './no'", "Check the name"],
        ),
        ({"--resume_from_checkpoint": "./no"}, ["checkpoint ./no is not there", "start from the beginning"]),
        (
            {"--max_steps": "0"},
            ["`max_steps` must be at least 1, or -1 for epochs, got 0", "evaluate_gen"],
        ),
        ({"--resume_from_checkpoint": "true"}, ["must name a checkpoint, got true, but out has no complete one"]),
    ],
)
def test_a_recipe_names_what_is_wrong(
    recipe: str, argv: dict[str, str], parts: list[str], failing: Callable[..., str]
) -> None:
    sentence, place = failing(recipe, argv), 0
    assert sentence.startswith("error: ")
    for part in parts:
        assert part in sentence[place:], sentence
        place = sentence.index(part, place)


@pytest.mark.parametrize("cell", ["", "  ", None])
@pytest.mark.parametrize("column", ["prompt", "references"])
def test_a_recipe_names_the_row_of_an_empty_cell(
    column: str, cell: str | None, failing: Callable[..., str], tmp_path: Path
) -> None:
    rows = [{"prompt": "a b", "references": "c d"} for _ in range(3)]
    rows[1][column] = cell
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sentence = failing("reinforce_gen", {"--prompt_template": "{prompt}"})
    assert sentence.startswith("error: ") and "row 1 (the first is 0)" in sentence
    assert "must be text" in sentence or "must have text" in sentence
    assert "Fill it in, " in sentence and column in sentence


@pytest.mark.parametrize(("dtype", "rate", "warned"), [("bfloat16", "1e-6", True), ("bfloat16", "1e-2", False)])
def test_a_learning_rate_below_the_precision_of_the_weights_is_warned_of(
    dtype: str, rate: str, warned: bool, failing: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    failing("sft", {"--max_completion_length": None, "--dtype": dtype, "--learning_rate": rate}, fails=False)
    sentence = "`learning_rate` is 1e-06, and a step of that size rounds to nothing for 9"
    assert (sentence in caplog.text) == warned


def test_an_option_that_a_library_does_not_know_is_named(failing: Callable[..., str]) -> None:
    options = {"--lr_scheduler_kwargs": '{"a": 1}'}
    refusal = "`lr_scheduler_kwargs` must be options of lr_scheduler_type='linear', got {'a': 1}"
    assert refusal in failing("ppo_gen", options)
    trained = {"--model_name_or_path": str(demo_model_path()), "--max_completion_length": None}
    sentence = failing("sft", {**trained, **options})
    assert sentence.startswith("error: A library got an option that it does not take (")
    assert "got an unexpected keyword argument 'a')" in sentence


def test_a_recipe_drops_or_cuts_long_prompts(
    failing: Callable[..., str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    usual = {"--max_prompt_length": "2", "--eval_dataset_name": "rows.jsonl", "--eval_rows": "7"}
    for choice, done, rows in (
        ("drop", "Dropped their rows, 5 are left", 5),
        ("cut", "Cut off their beginnings", 7),
    ):
        failing("reinforce_gen", {**usual, "--long_prompts": choice, "--overwrite": "true"}, fails=False)
        assert "got 2, and 2 of 7 prompts are longer: the longest has 6" in caplog.text
        assert done in caplog.text
        assert len(json.loads((tmp_path / "out" / "after.json").read_text())["completions"]) == rows
    short = {
        "--prompt_template": "x {mr}",
        "--max_prompt_length": "1",
        "--long_prompts": "drop",
        "--overwrite": "true",
    }
    assert "`max_prompt_length` must leave at least one row" in failing("reinforce_gen", short)


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory, llama_path: str, gpt2_path: str) -> dict[str, str]:
    """Returns folders that are no causal language model with its tokenizer, by what they are."""
    folder = tmp_path_factory.mktemp("strange")
    AutoModelForCausalLM.from_pretrained(gpt2_path).save_pretrained(folder / "no_tokenizer")
    LlamaModel.from_pretrained(llama_path).save_pretrained(folder / "no_head")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertForSequenceClassification(BertConfig(vocab_size=64, **sizes)).save_pretrained(folder / "classifier")
    (folder / "t5").mkdir()
    (folder / "t5" / "config.json").write_text('{"model_type": "t5", "vocab_size": 64}')
    (folder / "empty").mkdir()
    for name in ("no_head", "classifier", "t5", "empty"):
        tiny_tokenizer().save_pretrained(folder / name)
    return {path.name: str(path) for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("no_tokenizer", ["no tokenizer could be loaded", "tokenizer.save_pretrained(folder)"]),
        ("no_head", ["with all its weights", "without 'lm_head.weight'", "a backbone"]),
        ("classifier", ["without 'cls.", "a backbone or a classifier"]),
        ("t5", ["`save_pretrained`", "from which no causal language model could be loaded", "T5Config"]),
        ("empty", ["must be a hub id", "from which no causal language model could be loaded"]),
    ],
)
def test_a_folder_that_is_no_language_model_is_refused(
    name: str, parts: list[str], strange: dict[str, str], failing: Callable[..., str]
) -> None:
    sentence, place = failing("reinforce_gen", {"--model_name_or_path": strange[name]}), 0
    for part in parts:
        assert part in sentence[place:], sentence
        place = sentence.index(part, place)


def test_a_failing_reward_keeps_the_steps_done_and_the_recipe_names_their_folder(
    failing: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(
        "def flaky(completions, trainer_state=None, **columns):\n"
        "    if trainer_state is not None and trainer_state.global_step >= 2:\n"
        "        raise KeyError('slot')\n"
        "    return [sum(c.isalpha() for c in text) for text in completions]\n"
    )
    argv = {"--rewards": "own.py:flaky", "--max_steps": "5", "--eval_rows": "1"}
    sentence = failing("reinforce_gen", argv)
    assert "The reward 'flaky' raised KeyError: 'slot'" in sentence
    assert sentence.endswith("The 2 steps done so far are kept in out/checkpoint-2.")
    assert (tmp_path / "out" / "checkpoint-2" / "model.safetensors").is_file()


OWN_REWARDS = """
import time
count = 0
def letters(completions, **columns):
    return [sum(c.isalpha() for c in text) / 9 for text in completions]
def always(completions, **columns):
    raise KeyError("slot")
def once(completions, **columns):
    global count
    count += 1
    if count % 2:
        raise ConnectionError("no route")
    return letters(completions)
def hanging(completions, **columns):
    time.sleep(600)
"""


@pytest.mark.parametrize(
    ("reward", "parts"),
    [
        (
            "own.py:always",
            [
                "The reward 'always' raised KeyError: 'slot'. It was scoring 2 completions, the first of them ",
                "own.py, line ",
            ],
        ),
        (
            '{"in_workers": {"reward": "own.py:hanging", "workers": 1, "timeout": 0.5, "retries": 1}}',
            ["'hanging' failed on rows 0 to 1", "(attempts: 2)", "longer than the timeout of 0.5 s and was killed"],
        ),
        (
            '{"retried": {"reward": "own.py:always", "retries": 1, "wait": 0}}',
            ["The reward 'always' raised KeyError: 'slot'"],
        ),
    ],
)
def test_a_reward_that_fails_or_hangs_stops_a_recipe_with_a_sentence(
    reward: str, parts: list[str], failing: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(OWN_REWARDS)
    sentence, place = failing("ppo_gen", {"--rewards": reward}), 0
    for part in parts:
        assert part in sentence[place:], sentence
        place = sentence.index(part, place)


@pytest.mark.filterwarnings("ignore:The reward 'once'")
@pytest.mark.parametrize(
    "options",
    [
        '{"retried": {"reward": "own.py:once", "wait": 0}}',
        '{"in_workers": {"reward": "own.py:once", "workers": 1, "retries": 1}}',
    ],
)
def test_a_reward_that_fails_every_other_time_is_trained_on_with_retries(
    options: str, failing: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(OWN_REWARDS)
    failing("reinforce_gen", {"--rewards": options}, fails=False)
    assert json.loads((tmp_path / "out" / "trainer_state.json").read_text())["global_step"] == 2


@pytest.mark.parametrize("recipe", ["reinforce_gen", "ppo_gen"])
def test_a_learning_rate_that_breaks_the_policy_is_named(
    recipe: str, failing: Callable[..., str], tmp_path: Path
) -> None:
    argv = {"--learning_rate": "1e30", "--lr_scheduler_type": "constant", "--max_steps": "4", "--save_steps": "1"}
    (tmp_path / "own.py").write_text(OWN_REWARDS)
    sentence = failing(recipe, {**argv, "--rewards": "own.py:letters", "--save_strategy": "steps"})
    assert sentence.startswith("error: Training was stopped in step 2: ")
    assert (
        "The last checkpoint is out/checkpoint-1; if it was saved from these very weights, there is none" in sentence
    )
    assert "Lower `learning_rate` (it is 1e+30)" in sentence
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_a_critic_that_is_not_there_is_refused(gpt2_path: str, tmp_path: Path) -> None:
    refused(
        lambda: make_trainer("ppo", gpt2_path, tmp_path, critic="separate", critic_model_name_or_path="./no-critic"),
        "must be a hub id or an existing folder, got './no-critic'",
        "Check the name",
    )
