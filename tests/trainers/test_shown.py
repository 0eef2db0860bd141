"""What a trainer shows in a notebook, and as a line of text."""

from pathlib import Path
from typing import Any

import pytest
from training import make_trainer
from transformers import ProgressCallback, TrainerCallback
from transformers.trainer_callback import CallbackHandler, DefaultFlowCallback

from lmrl import progress_bar
from lmrl.display.trainers import changed_settings
from lmrl.progress_bar import TrainingProgress
from lmrl.trainers import PPOConfig


def test_a_trainer_shows_policy_rewards_settings_and_how_far_it_has_come(gpt2_path: str, tmp_path: Path) -> None:
    def alarming(completions: list[str], **_: Any) -> list[float]:
        """Returns <script>alert(1)</script>, in letters."""
        return [float(len(text) % 3) for text in completions]

    trainer = make_trainer("ppo", gpt2_path, tmp_path, reward=alarming, max_steps=2, hub_token="secret")
    before = trainer._repr_html_()
    assert 'PPOTrainer</span> <span class="soft">PPO' in before
    assert "not trained yet" in before and "<svg" not in before
    assert "&lt;script&gt;alert(1)&lt;/script&gt;, in letters" in before and "<script" not in before
    assert "max_steps 2" in before and "max_completion_length 8" in before
    assert "secret" not in before and str(tmp_path) not in before
    assert repr(trainer).startswith("PPOTrainer(GPT2LMHeadModel of ") and repr(trainer).endswith(", not trained yet)")
    trainer.train()
    after = trainer._repr_html_()
    assert "step 2 of 2: reward " in after and "<script" not in after
    assert after.count("<svg") >= 4 and "KL to the reference" in after
    assert repr(trainer).count("\n") == 0 and "step 2 of 2: reward " in repr(trainer)


def test_settings_that_differ_from_the_defaults_are_those_that_were_given(tmp_path: Path) -> None:
    filled = set(changed_settings(PPOConfig(str(tmp_path))))
    assert filled <= {"learning_rate"}  # which may follow from other fields
    given = {"steps_per_generation": 2, "lr_scheduler_type": "cosine", "beta": 0.1, "hub_token": "secret"}
    given["model_init_kwargs"] = {"dtype": "float32", "token": "secret"}
    changed = changed_settings(PPOConfig(str(tmp_path), **given))
    assert {name: text for name, text in changed.items() if name not in filled} == {
        "lr_scheduler_type": "cosine",
        "beta": "0.1",
        "steps_per_generation": "2",
        "model_init_kwargs": "{'dtype': 'float32', 'token': 'hidden'}",
    }


def test_the_progress_bar_takes_the_place_of_that_of_a_terminal_and_of_a_notebook(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class TableOfLosses(TrainerCallback):
        """What transformers sets where it runs in a notebook."""

    monkeypatch.setattr(progress_bar, "DEFAULT_PROGRESS_CALLBACK", TableOfLosses)
    for bars, expected in (
        ([ProgressCallback], [TrainingProgress]),
        ([TableOfLosses], [TrainingProgress]),
        ([], []),
    ):
        handler = CallbackHandler([DefaultFlowCallback, *bars], None, None, None, None)
        progress_bar.show_training_progress(handler)
        assert [type(one) for one in handler.callbacks] == [DefaultFlowCallback, *expected]
