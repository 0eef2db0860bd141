"""RESUME: a run that is stopped and resumed goes on as if it had not stopped."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from training import make_trainer, share_of_a, share_of_letters

from lmrl.checks import RewardError
from lmrl.rewards import Length, Normalized, Weighted
from lmrl.trainers import PolicyGradientTrainer

RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "reinforce": ("reinforce", {"baseline": "moving_average"}),
    "reinforce, greedy": ("reinforce", {"baseline": "greedy"}),
    "reinforce, dense rewards": (
        "reinforce",
        {"baseline": "moving_average", "loss_level": "token", "shaping": "progress", "reward": Length(4)},
    ),
    "ppo": ("ppo", {"kl_target": 0.5, "kl_horizon": 20.0}),
}
SPENT = ("runtime", "second", "time", "train_loss", "total_flos")  # of the clock, or of this call of train alone


def rewards() -> list[Any]:
    """Returns new rewards, one with statistics within a sum, and a plain function."""
    return [Weighted({Normalized(share_of_letters): 1.0, Length(4): 0.5}, name="sum"), share_of_a]


def run(name: str, model: str, folder: Path, **overrides: Any) -> PolicyGradientTrainer:
    """Returns a trainer of 4 steps that saves every second one."""
    algorithm, options = RUNS[name]
    options = {**options, "max_steps": 4, "save_strategy": "steps", "save_steps": 2, **overrides}
    return make_trainer(algorithm, model, folder, **{"reward": rewards(), **options})


def figures(trainer: PolicyGradientTrainer) -> list[dict[str, float]]:
    """Returns what was logged, without times."""
    return [
        {name: value for name, value in row.items() if not any(word in name for word in SPENT)}
        for row in trainer.state.log_history
    ]


def saved(folder: Path) -> dict[str, Any]:
    """Returns the state of lmrl in a checkpoint."""
    return json.loads((folder / "lmrl_state.json").read_text())


@pytest.mark.parametrize("name", ["reinforce, greedy", "reinforce, dense rewards"])
def test_two_steps_and_two_after_resuming_are_four(name: str, gpt2_path: str, tmp_path: Path) -> None:
    straight = run(name, gpt2_path, tmp_path)
    straight.train()
    torch.manual_seed(1)
    resumed = run(name, gpt2_path, tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    weights = dict(resumed.model.named_parameters())
    for parameter_name, parameter in straight.model.named_parameters():
        assert torch.equal(parameter, weights[parameter_name]), parameter_name
    assert resumed.run_state_dict() == straight.run_state_dict()
    assert figures(resumed) == figures(straight)


def test_every_checkpoint_has_what_the_run_has_learned(gpt2_path: str, tmp_path: Path) -> None:
    trainer = run("ppo", gpt2_path, tmp_path)
    trainer.train()
    state = saved(tmp_path / "checkpoint-2")
    assert state["step"] == 2
    assert state["beta"] == trainer.state.log_history[2]["kl_coef"] != 0.05
    count, mean, _ = state["rewards"]["sum"]["share_of_letters_normalized"]["statistics"]
    assert count == 8
    assert mean == pytest.approx(trainer.state.log_history[0]["share_of_letters_normalized/share_of_letters"])
    assert saved(tmp_path / "checkpoint-4")["rewards"]["sum"]["share_of_letters_normalized"]["statistics"][0] == 16
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_beta_that_does_not_adapt_may_be_changed_on_resuming(gpt2_path: str, tmp_path: Path) -> None:
    run("reinforce", gpt2_path, tmp_path, max_steps=2).train()
    assert "beta" not in saved(tmp_path / "checkpoint-2")
    resumed = run("reinforce", gpt2_path, tmp_path, beta=0.2, max_steps=3)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.beta == resumed.state.log_history[2]["kl_coef"] == 0.2


def test_resumed_without_its_rollout_the_next_one_begins_where_it_would_have(gpt2_path: str, tmp_path: Path) -> None:
    options = {"steps_per_generation": 2, "per_device_train_batch_size": 4, "save_steps": 3, "max_steps": 6}
    run("ppo", gpt2_path, tmp_path, **options).train()  # 2 epochs of 2 batches: rollouts begin at steps 0 and 4
    for name in ("rollout.safetensors", "lmrl_files.json"):
        (tmp_path / "checkpoint-3" / name).unlink()
    resumed = run("ppo", gpt2_path, tmp_path, **options)
    began = []
    generate = resumed._generate_and_score_completions
    resumed._generate_and_score_completions = lambda inputs: began.append(resumed._step) or generate(inputs)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert began == [3, 4]


def test_a_checkpoint_without_lmrl_s_state_is_resumed_with_a_warning(
    gpt2_path: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run("reinforce", gpt2_path, tmp_path, max_steps=2).train()
    for name in ("lmrl_state.json", "lmrl_files.json"):
        (tmp_path / "checkpoint-2" / name).unlink()
    resumed = run("reinforce", gpt2_path, tmp_path, max_steps=3)
    resumed.train(resume_from_checkpoint=True)
    assert "has no lmrl_state.json" in caplog.text
    assert resumed.state.global_step == 3


def test_held_out_rewards_are_not_learned_from(gpt2_path: str, tmp_path: Path) -> None:
    trainer = run("reinforce", gpt2_path, tmp_path, reward=Normalized(share_of_letters, name="own"))
    trainer.eval_dataset = trainer.train_dataset.select(range(4))
    trainer.train()
    before = trainer.run_state_dict()["rewards"]["own"]["statistics"]
    figures = trainer.evaluate()
    assert trainer.run_state_dict()["rewards"]["own"]["statistics"] == before
    assert before[0] == 32
    assert figures["eval_rewards/own/mean"] > 0.1  # as it is, not less its mean


def test_greedy_completions_are_not_learned_from(gpt2_path: str, tmp_path: Path) -> None:
    trainer = run("reinforce, greedy", gpt2_path, tmp_path, reward=Normalized(share_of_letters, name="own"))
    trainer.train()
    assert trainer.run_state_dict()["rewards"]["own"]["statistics"][0] == 4 * 8


def test_what_a_failing_reward_leaves_can_be_resumed(gpt2_path: str, tmp_path: Path) -> None:
    calls = []

    def failing(completions: list[str], **_: Any) -> list[float]:
        calls.append(len(completions))
        return [1 / (3 - len(calls))] * len(completions)

    with pytest.raises(RewardError, match="'failing' raised ZeroDivisionError"):
        run("reinforce", gpt2_path, tmp_path, reward=[*rewards(), failing], save_strategy="no").train()
    state = saved(tmp_path / "checkpoint-2")
    assert state["step"] == 2 and "reward_average" in state
    resumed = run("reinforce", gpt2_path, tmp_path)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.run_state_dict()["step"] == 4


def test_a_reward_that_fails_after_a_checkpoint_leaves_that_one_as_it_is(gpt2_path: str, tmp_path: Path) -> None:
    calls = []

    def failing(completions: list[str], **_: Any) -> list[float]:
        calls.append(len(completions))
        return share_of_a(completions) if len(calls) != 3 else []

    straight = run("reinforce", gpt2_path, tmp_path / "straight")
    straight.train()
    with pytest.raises(RewardError, match=r"got a list of 0 .* kept in .*checkpoint-2\."):
        run("reinforce", gpt2_path, tmp_path, reward=[rewards()[0], failing]).train()
    resumed = run("reinforce", gpt2_path, tmp_path)
    resumed.train(resume_from_checkpoint=True)
    for (name, old), new in zip(straight.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(old, new), name
    assert resumed.run_state_dict()["rewards"] == straight.run_state_dict()["rewards"]


@pytest.mark.parametrize("adapter", [None, LoraConfig(r=4, target_modules=["c_attn"], task_type="CAUSAL_LM")])
def test_a_moving_reference_goes_on_from_where_it_was(
    adapter: LoraConfig | None, gpt2_path: str, tmp_path: Path
) -> None:
    options = {"sync_ref_model": True, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 0.5}
    straight = run("reinforce", gpt2_path, tmp_path, peft_config=adapter, **options)
    start = {name: weight.clone() for name, weight in reference_weights(straight).items()}
    straight.train()
    resumed = run("reinforce", gpt2_path, tmp_path, peft_config=adapter, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for name, weight in reference_weights(straight).items():
        assert torch.equal(weight, reference_weights(resumed)[name]), name
    assert any(not torch.equal(weight, start[name]) for name, weight in reference_weights(straight).items())
    assert figures(resumed) == figures(straight)


def reference_weights(trainer: Any) -> dict[str, torch.Tensor]:
    """Returns the weights of a reference that moves: of a model, or of an adapter of the policy."""
    if trainer.ref_model is not None:
        return dict(trainer.ref_model.named_parameters())
    return {name: weight for name, weight in trainer.model.named_parameters() if ".ref." in name}


def test_a_run_that_is_at_its_end_trains_no_further_step(gpt2_path: str, tmp_path: Path) -> None:
    first = run("reinforce", gpt2_path, tmp_path, max_steps=1, save_steps=1)  # within an epoch of two
    first.train()
    again = run("reinforce", gpt2_path, tmp_path, max_steps=1, save_steps=1)
    again.train(resume_from_checkpoint="latest")
    assert again.state.global_step == 1
    assert figures(again) == figures(first)
    for (name, old), new in zip(first.model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(old, new), name


def test_the_completions_of_a_rollout_are_in_the_tables_of_a_resumed_run(gpt2_path: str, tmp_path: Path) -> None:
    options = {"steps_per_generation": 2, "per_device_train_batch_size": 4, "save_steps": 3, "max_steps": 4}
    options |= {"log_completions": True, "num_completions_to_print": 0}
    straight, resumed = run("ppo", gpt2_path, tmp_path, **options), run("ppo", gpt2_path, tmp_path, **options)
    straight.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert len(resumed._logs["completion"]) == 8
    assert resumed._logs == straight._logs


def test_a_rollout_with_the_names_of_the_first_checkpoints_is_gone_on_with(gpt2_path: str, tmp_path: Path) -> None:
    options = {"steps_per_generation": 2, "per_device_train_batch_size": 4, "save_steps": 3, "max_steps": 4}
    straight, resumed = run("ppo", gpt2_path, tmp_path, **options), run("ppo", gpt2_path, tmp_path, **options)
    straight.train()
    path = tmp_path / "checkpoint-3" / "rollout.safetensors"
    old = {"old_log_probs": "old_per_token_logps", "ref_log_probs": "ref_per_token_logps"}
    save_file({old.get(name, name): tensor for name, tensor in load_file(path).items()}, path)
    (tmp_path / "checkpoint-3" / "lmrl_files.json").unlink()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert figures(resumed) == figures(straight)
    for (name, old_weight), new in zip(straight.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(old_weight, new), name
