"""A run that is resumed with other arguments: what is kept, what is taken, what is refused."""

from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig
from training import make_trainer

SAVING = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2}


def lora(**options: Any) -> LoraConfig:
    return LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["c_attn"], "task_type": "CAUSAL_LM", **options})


def test_the_learning_rates_of_a_checkpoint_are_kept_and_stated(
    gpt2_path: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept_rates = {"critic": "shared", "learning_rate": 1e-3, "critic_learning_rate": 1e-2}
    make_trainer("ppo", gpt2_path, tmp_path, **kept_rates, **SAVING).train()
    rates = {"critic": "shared", "learning_rate": 5e-4, "critic_learning_rate": 2e-2}
    resumed = make_trainer("ppo", gpt2_path, tmp_path, beta=0.1, **{**SAVING, "max_steps": 4, **rates})
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    kept = "learning_rate=0.001 (not 0.0005), critic_learning_rate=0.01 (not 0.02)."
    assert f"Kept, as the state of its optimizer has them: {kept}" in caplog.text
    assert "Taken: max_steps=4 (was 2), beta=0.1 (was 0.05)." in caplog.text
    assert [row["learning_rate"] for row in resumed.state.log_history[-3:-1]] == [1e-3, 1e-3]
    assert (resumed.args.learning_rate, resumed.args.critic_learning_rate) == (1e-3, 1e-2)  # what reports state
    caplog.clear()
    same = make_trainer("ppo", gpt2_path, tmp_path, beta=0.1, **kept_rates, **{**SAVING, "max_steps": 4})
    same.train(resume_from_checkpoint="latest")
    assert "other arguments" not in caplog.text


def test_another_optimizer_or_adapter_than_the_checkpoints_is_refused(gpt2_path: str, tmp_path: Path) -> None:
    checkpoint = str(tmp_path / "checkpoint-2")
    make_trainer("reinforce", gpt2_path, tmp_path, peft_config=lora(), **SAVING).train()

    def resume(**options: Any) -> None:
        make_trainer("reinforce", gpt2_path, tmp_path, **{**SAVING, **options}).train(checkpoint)

    with pytest.raises(ValueError, match=r"`optim` must be 'adamw_torch(_fused)?', that of .*checkpoint-2, got 'sgd'"):
        resume(peft_config=lora(), optim="sgd")
    with pytest.raises(ValueError, match=r"`r` must be 4, that of .*checkpoint-2, got 8\. Resume with it, or start"):
        resume(peft_config=lora(r=8))
    with pytest.raises(ValueError, match=r"`lora_alpha` must be 8, .*, got 16"):
        resume(peft_config=lora(lora_alpha=16))
    with pytest.raises(ValueError, match=r"`target_modules` must be \['c_attn'\], .*, got \['c_attn', 'c_fc'\]"):
        resume(peft_config=lora(target_modules=["c_fc", "c_attn"]))
    with pytest.raises(ValueError, match=r"`peft_type` must be 'LORA', that of .*checkpoint-2, got None"):
        resume()
    make_trainer("reinforce", gpt2_path, tmp_path, **SAVING).train()
    with pytest.raises(ValueError, match=r"`peft_type` must be None, that of .*checkpoint-2, got 'LORA'"):
        resume(peft_config=lora())
