"""What is measured before training and after it is measured alike: without a learning rate nothing changes."""

import importlib.util
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset
from tiny import CHAT_TEMPLATE, tiny_tokenizer
from transformers import GenerationConfig

from lmrl.arguments import DataArguments, EvaluationArguments, ModelArguments
from lmrl.data import load_splits
from lmrl.evaluation.metrics import METRICS, higher_is_better
from lmrl.experiment import load_rows, make_evaluator
from lmrl.models import load_model, load_tokenizer
from lmrl.rewards import make_rewards
from lmrl.trainers import PPOConfig

Recipe = Callable[..., tuple[int, str, str]]

# "think" is on unless it is given; without it a prompt ends in "b".
THINKING_TEMPLATE = CHAT_TEMPLATE.replace(
    "assistant {% endif %}", "assistant {% if not think | default(true) %}b {% endif %}{% endif %}"
)
LORA = ("--use_peft", "true", "--lora_r", "4", "--lora_target_modules", "all-linear")
SETTINGS = {
    "text": (),
    "chat": ("--chat", "true", "--chat_template_kwargs", '{"think": false}'),
    "bf16": ("--bf16", "true"),
    "LoRA in bf16": (*LORA, "--bf16", "true"),
    "4 bits": (*LORA, "--load_in_4bit", "true"),
}


@pytest.fixture
def policy(llama_path: str, tmp_path: Path) -> Path:
    """Returns the folder of a model whose generation config ends texts at another token than the tokenizer."""
    folder = tmp_path / "policy"
    folder.mkdir()
    for path in Path(llama_path).iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "generation_config.json").unlink()
    GenerationConfig(eos_token_id=10, pad_token_id=0).save_pretrained(folder)
    (folder / "tokenizer_config.json").unlink()
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = THINKING_TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", ["reinforce_gen", "ppo_gen"])
def test_without_a_learning_rate_every_score_after_is_the_one_before(
    name: str, settings: str, recipe: Recipe, policy: Path, tmp_path: Path
) -> None:
    if settings == "4 bits" and importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    rows = [{"prompt": f"{a} {b}", "references": "b c d e f"} for a in "abcdef" for b in "abcdef"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, out, err = recipe(
        name,
        *("--model_name_or_path", policy, "--dataset_name", "rows.jsonl", "--output_dir", tmp_path / "out"),
        *("--learning_rate", "0", "--max_steps", "1", "--per_device_train_batch_size", "8", "--report_to", "none"),
        *("--max_completion_length", "12", "--eval_rows", "12", "--eval_do_sample", "true"),
        *SETTINGS[settings],
    )
    assert status == 0, err
    before, after = (json.loads((tmp_path / "out" / f"{label}.json").read_text()) for label in ("before", "after"))
    assert before["decoding"]["eos_tokens"] == ["<eos>", "h"]
    assert before["decoding"]["chat_template_kwargs"] == ({"think": False} if settings == "chat" else None)
    assert 0 < before["scores"]["unfinished"]["value"] < 1
    assert before.pop("trained_on") is None  # of the start nothing is known, and the run held these rows out
    assert after.pop("trained_on") == {}
    assert before == after
    assert "No warnings" in out


def test_a_warm_start_renders_chats_with_the_variables_of_the_template(
    recipe: Recipe, policy: Path, tmp_path: Path
) -> None:
    tokenizer = tiny_tokenizer()
    ended = CHAT_TEMPLATE.replace(
        "{% endfor %}", "{% if message['role'] == 'assistant' %}<eos> {% endif %}{% endfor %}"
    )
    tokenizer.chat_template = "{% if not think | default(true) %}b b b {% endif %}" + ended
    tokenizer.save_pretrained(policy)
    rows = [{"prompt": f"{a} {b}", "references": "c d"} for a in "abcd" for b in "abcd"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = ("--dataset_name", "rows.jsonl", "--eval_rows", "4", "--chat_template_kwargs", '{"think": false}')
    training = ("--max_steps", "1", "--learning_rate", "0", "--eval_strategy", "steps", "--bf16", "false")
    start = ("--model_name_or_path", policy, *data, *training, "--report_to", "none")

    def run(name: str, *arguments: str) -> str:
        status, out, err = recipe("sft", *start, *arguments, "--output_dir", tmp_path / name)
        assert status == (2 if name == "text" else 0), err
        return out + err

    out = run("chat", "--chat", "true")
    assert re.search(r"first prompt +b b b user \w \w assistant$", out, re.MULTILINE)
    before, after = (json.loads((tmp_path / "chat" / f"{label}.json").read_text()) for label in ("before", "after"))
    assert before["decoding"]["chat_template_kwargs"] == {"think": False}
    assert "`chat_template_kwargs` must be left out for prompts that are texts" in run("text")
    # TRL renders the rows of the loss, lmrl those of the perplexity.
    lines = [json.loads(line) for line in (tmp_path / "chat" / "log.jsonl").read_text().splitlines()]
    (loss,) = (line["eval_loss"] for line in lines if "eval_loss" in line)
    assert before["scores"]["reference_perplexity"]["value"] == pytest.approx(math.exp(loss), rel=1e-5)
    assert before["scores"] == after["scores"]


def test_the_held_out_rows_are_the_same_whatever_the_seed_of_a_run(llama_path: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{a} {b}"}) + "\n" for a in "abcdef" for b in "abcdef"))
    model, tokenizer = load_model(llama_path), load_tokenizer(llama_path)

    def held_out(seed: int, **options: int) -> list[str]:
        config = PPOConfig(str(tmp_path), max_completion_length=8, seed=seed, report_to=[])
        return load_rows(DataArguments(dataset_name=str(path), **options), model, tokenizer, config)[1]["prompt"][:]

    assert held_out(0) == held_out(1) != held_out(0, eval_split_seed=1)
    warm_start = load_splits(tokenizer, None, **vars(DataArguments(dataset_name=str(path))))
    assert warm_start[1]["prompt"][:] == held_out(0) and not {*warm_start[0]["prompt"]} & {*held_out(1)}


@pytest.mark.parametrize(
    ("metric", "given", "expected"),
    [
        ("ter", None, False),
        ("eval_bleu", None, True),
        ("reward/ter", None, True),
        ("unfinished", False, False),
        ("length", False, False),
        ("length", True, True),
        ("ter", True, "`greater_is_better` must be False for 'ter', got True. Leave it out."),
        ("bleu", False, "`greater_is_better` must be True for 'bleu', got False. Leave it out."),
        ("length", None, "`greater_is_better` must be set for 'length'"),
        ("cider", None, "`metric_for_best_model` must have a value for a single held-out row, got 'cider'."),
        ("eval_self_bleu", None, "must have a value for a single held-out row, got 'self_bleu'."),
        ("perplexity", None, "`metric_for_best_model` must be one of bleu, .*, got 'perplexity'."),
        ("blue", None, "`metric_for_best_model` must be one of .* Did you mean `bleu`?"),
    ],
)
def test_the_best_checkpoint_is_chosen_by_the_direction_of_the_metric(
    metric: str, given: bool | None, expected: bool | str, tmp_path: Path
) -> None:
    best = {"metric_for_best_model": metric, "greater_is_better": given}
    rows = Dataset.from_list([{"prompt": "a", "references": ["b"]}])

    def make() -> PPOConfig:
        config = PPOConfig(str(tmp_path), report_to=[], **best)
        make_evaluator(tiny_tokenizer(), rows, make_rewards(["ter"]), ModelArguments(), EvaluationArguments(), config)
        return config

    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            make()
    else:
        assert make().greater_is_better is expected


@pytest.mark.parametrize(("sampled", "expected"), [(True, 0.5), (False, 1.0)])
def test_held_out_texts_are_sampled_at_the_temperature_of_training(
    sampled: bool, expected: float, tmp_path: Path
) -> None:
    rows = Dataset.from_list([{"prompt": "a", "references": ["b"]}])
    config = PPOConfig(str(tmp_path), report_to=[], temperature=0.5)
    arguments = ModelArguments(), EvaluationArguments(eval_do_sample=sampled), config
    evaluator = make_evaluator(tiny_tokenizer(), rows, make_rewards(["ter"]), *arguments)
    assert (evaluator.decoding.do_sample, evaluator.decoding.temperature) == (sampled, expected)


def test_a_configuration_alone_knows_the_metrics_of_which_less_is_better(tmp_path: Path) -> None:
    def direction(metric: str, given: bool | None = None) -> bool | None:
        best = {"metric_for_best_model": metric, "greater_is_better": given, "load_best_model_at_end": True}
        config = PPOConfig(str(tmp_path), report_to=[], eval_strategy="steps", save_strategy="steps", **best)
        return config.greater_is_better

    falling = [name for name in METRICS if higher_is_better(name) is False]
    for metric in (*falling, "perplexity", "eval_ter", "eval_dev_ter", "kl", "kl_per_sequence", "loss"):
        assert direction(metric) is direction(metric, False) is False
        with pytest.raises(ValueError, match=r"`greater_is_better` must be False for '.*', got True\."):
            direction(metric, True)
    for metric in ("bleu", "reward/ter", "eval_reward", "own_reward", "reward/own_loss", "eval_dev_reward/own_kl"):
        assert direction(metric) is True
    assert direction("own_cost", False) is False
