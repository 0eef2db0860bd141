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


def test_what_must_not_change_is_refused_before_a_run_does_anything(gpt2_path: str, tmp_path: Path) -> None:
    """By the constructor, as a recipe evaluates between that and its training."""
    named = {"resume_from_checkpoint": "latest"}
    make_trainer("ppo", gpt2_path, tmp_path / "ppo", **named, **SAVING).train()
    with pytest.raises(ValueError, match=r"`optim` must be 'adamw_torch(_fused)?', that of .*checkpoint-2, got 'sgd'"):
        make_trainer("ppo", gpt2_path, tmp_path / "ppo", optim="sgd", **named, **SAVING)
    with pytest.raises(ValueError, match=r"`r` must be None, that of .*checkpoint-2, got 4|`peft_type` must be None"):
        make_trainer("ppo", gpt2_path, tmp_path / "ppo", peft_config=lora(), **named, **SAVING)
    for critic in ("shared", "separate"):
        with pytest.raises(
            ValueError, match=f"`critic` must be 'least_squares', that of .*-2, got '{critic}'. Resume"
        ):
            make_trainer("ppo", gpt2_path, tmp_path / "ppo", critic=critic, **named, **SAVING)
    make_trainer("reinforce", gpt2_path, tmp_path / "reinforce", **SAVING).train()
    with pytest.raises(ValueError, match=r"`baseline` must be 'leave_one_out', that of .*, got 'critic'"):
        make_trainer("reinforce", gpt2_path, tmp_path / "reinforce", baseline="critic", **named, **SAVING)
    with pytest.raises(ValueError, match=r"`critic` must be None, that of .*, got 'least_squares'"):
        make_trainer("ppo", gpt2_path, tmp_path / "reinforce", **named, **SAVING)
    (tmp_path / "reinforce" / "checkpoint-2" / "lmrl_state.json").write_text("{", encoding="utf-8")
    make_trainer("reinforce", gpt2_path, tmp_path / "reinforce", optim="sgd", **named, **SAVING)  # damaged: not read


def test_the_checkpoint_of_the_configuration_is_gone_on_from(gpt2_path: str, tmp_path: Path) -> None:
    make_trainer("reinforce", gpt2_path, tmp_path, **SAVING).train()
    further = {**SAVING, "max_steps": 3, "resume_from_checkpoint": "latest"}
    trainer = make_trainer("reinforce", gpt2_path, tmp_path, **further)
    began = []
    generate = trainer._generate_and_score_completions
    trainer._generate_and_score_completions = lambda inputs: began.append(trainer._step) or generate(inputs)
    trainer.train()
    assert began == [2] and trainer.state.global_step == 3


def test_a_rollout_serves_one_update_when_its_batches_are_halved(gpt2_path: str, tmp_path: Path) -> None:
    """8 completions are 2 batches of 4, then 4 of 2: an update of two rollouts would be of 4 old completions."""
    wide = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    make_trainer("reinforce", gpt2_path, tmp_path, **{**SAVING, **wide, "save_steps": 1, "max_steps": 1}).train()
    narrow = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    trainer = make_trainer("reinforce", gpt2_path, tmp_path, **{**SAVING, **narrow, "max_steps": 3})
    began = []
    generate = trainer._generate_and_score_completions
    trainer._generate_and_score_completions = lambda inputs: (
        began.append((trainer._step, trainer.state.global_step)) or generate(inputs)
    )
    trainer.train(str(tmp_path / "checkpoint-1"))
    assert began == [(4, 1), (8, 2)]


def test_updates_left_out_before_batches_were_halved_leave_out_none_after(gpt2_path: str, tmp_path: Path) -> None:
    far = {"target_kl": 1e-6, "num_iterations": 4, "save_steps": 2}
    wide = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    make_trainer("reinforce", gpt2_path, tmp_path, **{**SAVING, **far, **wide}).train()
    narrow = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    trainer = make_trainer("reinforce", gpt2_path, tmp_path, **{**SAVING, **far, **narrow, "max_steps": 5})
    trainer.train(str(tmp_path / "checkpoint-2"))
    # Of the first rollout three updates are left out, whatever the batches are; the fifth begins the second rollout.
    assert trainer.kl_stop.left_out == 3 and trainer.state.log_history[-2]["grad_norm"] > 1e-3


def test_a_run_without_any_reward_so_far_is_resumed(gpt2_path: str, tmp_path: Path) -> None:
    """A critic that is fitted has no sums then."""

    def none(completions: list[str], **_: Any) -> list[None]:
        return [None] * len(completions)

    for steps in (2, 3):
        trainer = make_trainer(
            "ppo", gpt2_path, tmp_path, none, **{**SAVING, "max_steps": steps}, startup_checks=False
        )
        trainer.train(resume_from_checkpoint="latest")
        assert trainer.state.global_step == steps
