"""The shortest form of a training: a model's name, a reward, a configuration, rows, and `train()`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from lmrl import PPOConfig, PPOTrainer, ReinforceConfig, ReinforceTrainer
from lmrl.data import demo_model_path, demo_rows

SMALL = {"per_device_train_batch_size": 32, "max_completion_length": 32}


def brevity(completions: list[str], **columns: Any) -> list[float]:
    """Returns minus the number of words of each completion."""
    return [-float(len(text.split())) for text in completions]


@pytest.mark.parametrize("as_rows", [list, Dataset.from_list])
@pytest.mark.parametrize(
    ("trainer_class", "config_class"), [(PPOTrainer, PPOConfig), (ReinforceTrainer, ReinforceConfig)]
)
def test_a_name_a_function_a_configuration_and_rows_are_enough(
    trainer_class: type, config_class: type, as_rows: Callable[[list[dict[str, str]]], Any], tmp_path: Path
) -> None:
    prompts = [{"prompt": row["prompt"]} for row in demo_rows("train")[:64]]
    config = config_class(str(tmp_path), max_steps=8, learning_rate=1e-3, **SMALL)
    trainer = trainer_class(str(demo_model_path()), brevity, config, as_rows(prompts))
    trainer.train()
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    assert rewards[-1] > rewards[0] + 3  # words


def test_evaluation_rows_may_be_a_list_too(tmp_path: Path) -> None:
    prompts = [{"prompt": row["prompt"]} for row in demo_rows("train")[:8]]
    config = ReinforceConfig(str(tmp_path), max_steps=1, eval_strategy="steps", eval_steps=1, **SMALL)
    trainer = ReinforceTrainer(str(demo_model_path()), brevity, config, prompts, eval_dataset=prompts[:4])
    trainer.train()
    assert any("eval_reward" in entry for entry in trainer.state.log_history)
