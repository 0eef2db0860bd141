"""RESUME: a run that is stopped and resumed goes on as if it had not stopped."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from training import make_trainer, share_of_a, share_of_letters

from lmrl.rewards import Length, Normalized, Weighted
from lmrl.trainers.rollout import RolloutTrainer
from lmrl.trainers.scoring import RewardError

RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "reinforce": ("reinforce", {"baseline": "moving_average"}),
    "reinforce, greedy": ("reinforce", {"baseline": "greedy"}),
    "ppo": ("ppo", {"kl_target": 0.5, "kl_horizon": 20.0}),
}
SPENT = ("runtime", "second", "time", "train_loss", "total_flos")  # of the clock, or of this call of train alone


def rewards() -> list[Any]:
    """Returns new rewards, one with statistics within a sum, and a plain function."""
    return [Weighted({Normalized(share_of_letters): 1.0, Length(4): 0.5}, name="sum"), share_of_a]


def run(name: str, model: str, folder: Path, **overrides: Any) -> RolloutTrainer:
    """Returns a trainer of 4 steps that saves every second one."""
    algorithm, options = RUNS[name]
    options = {**options, "max_steps": 4, "save_strategy": "steps", "save_steps": 2, **overrides}
    return make_trainer(algorithm, model, folder, **{"reward": rewards(), **options})


def figures(trainer: RolloutTrainer) -> list[dict[str, float]]:
    """Returns what was logged, without what the clock says."""
    return [
        {name: value for name, value in row.items() if not any(word in name for word in SPENT)}
        for row in trainer.state.log_history
    ]


def saved(folder: Path) -> dict[str, Any]:
    """Returns our state in a checkpoint."""
    return json.loads((folder / "lmrl_state.json").read_text())


@pytest.mark.parametrize("name", RUNS)
def test_two_steps_and_two_after_resuming_are_four_steps(name: str, gpt2_path: str, tmp_path: Path) -> None:
    straight = run(name, gpt2_path, tmp_path)
    straight.train()
    torch.manual_seed(1)
    resumed = run(name, gpt2_path, tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    ours = dict(resumed.model.named_parameters())
    for parameter_name, parameter in straight.model.named_parameters():
        assert torch.equal(parameter, ours[parameter_name]), parameter_name
    assert resumed.own_state() == straight.own_state()
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


def test_resumed_within_a_rollout_the_next_one_begins_where_it_would_have(gpt2_path: str, tmp_path: Path) -> None:
    options = {"steps_per_generation": 2, "per_device_train_batch_size": 4, "save_steps": 3, "max_steps": 6}
    run("ppo", gpt2_path, tmp_path, **options).train()  # 2 epochs of 2 batches: rollouts begin at steps 0 and 4
    resumed = run("ppo", gpt2_path, tmp_path, **options)
    began = []
    generate = resumed._generate_and_score_completions
    resumed._generate_and_score_completions = lambda inputs: began.append(resumed._step) or generate(inputs)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert began == [3, 4]


def test_figures_not_logged_yet_are_logged_after_resuming(gpt2_path: str, tmp_path: Path) -> None:
    straight = run("reinforce", gpt2_path, tmp_path, logging_steps=4)
    straight.train()
    resumed = run("reinforce", gpt2_path, tmp_path, logging_steps=4)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    names = ("reward", "kl", "rewards/sum/mean", "sum/length", "sum/length_weighted")
    for name in names:
        assert resumed.state.log_history[0][name] == straight.state.log_history[0][name], name


def test_a_checkpoint_without_our_state_is_resumed_with_a_warning(
    gpt2_path: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run("reinforce", gpt2_path, tmp_path, max_steps=2).train()
    (tmp_path / "checkpoint-2" / "lmrl_state.json").unlink()
    resumed = run("reinforce", gpt2_path, tmp_path, max_steps=3)
    resumed.train(resume_from_checkpoint=True)
    assert "has no lmrl_state.json" in caplog.text
    assert resumed.state.global_step == 3


def test_held_out_rewards_are_not_learned_from(gpt2_path: str, tmp_path: Path) -> None:
    trainer = run("reinforce", gpt2_path, tmp_path, reward=Normalized(share_of_letters, name="own"))
    trainer.eval_dataset = trainer.train_dataset.select(range(4))
    trainer.train()
    before = trainer.own_state()["rewards"]["own"]["statistics"]
    figures = trainer.evaluate()
    assert trainer.own_state()["rewards"]["own"]["statistics"] == before
    assert before[0] == 32
    assert figures["eval_rewards/own/mean"] > 0.1  # as it is, not less its mean


def test_greedy_completions_are_not_learned_from(gpt2_path: str, tmp_path: Path) -> None:
    trainer = run("reinforce, greedy", gpt2_path, tmp_path, reward=Normalized(share_of_letters, name="own"))
    trainer.train()
    assert trainer.own_state()["rewards"]["own"]["statistics"][0] == 4 * 8


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
    assert resumed.own_state()["step"] == 4
