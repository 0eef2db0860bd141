"""What is measured before training and after it is measured alike: without a learning rate nothing changes."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import CHAT_TEMPLATE, tiny_tokenizer
from transformers import GenerationConfig

from lmrl.arguments import DataArguments
from lmrl.data import load_splits
from lmrl.experiment import load_rows
from lmrl.models import load_model, load_tokenizer
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
    assert before == after
    assert "No warnings" in out


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
