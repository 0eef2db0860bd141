"""What is logged of completions that do not count: cut ones that are masked out, and those without a reward."""

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny import tiny_gpt2
from training import ALGORITHMS, make_trainer, share_of_letters

from lmrl.rollouts import read_rollouts

PAD = 0
EOS = 1
# Two completions of four prompts. The second and the last but one are cut, the one behind a padding token.
COMPLETIONS = [[10, EOS], [11] * 7 + [PAD], [12, 13, EOS], [14, EOS], [15, PAD, EOS], [16, EOS], [17] * 8, [18, EOS]]
HAS_ENDED = [True, False, True, True, True, True, False, True]


def given(rewards: list[float | None]) -> Callable[..., list[float | None]]:
    """Returns a reward that gives the completions of a rollout these numbers, in their order."""
    return lambda completions, **_: rewards


def trained(algorithm: str, model: str, folder: Path, rewards: list[float | None], **options: Any) -> Any:
    """Returns a trainer, after one rollout of the completions above, and the rollout that was trained on."""
    trainer = make_trainer(
        algorithm, model, folder, given(rewards), startup_checks=False, **{"max_steps": 1} | options
    )
    trainer._generate_single_turn = lambda *_: COMPLETIONS
    served = []
    credit = trainer.credit
    trainer.credit = lambda rollout: served.append(rollout) or credit(rollout)
    trainer.train()
    return trainer, served[0]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_completion_that_is_cut_behind_a_padding_token_has_not_ended(
    algorithm: str, gpt2_path: str, tmp_path: Path
) -> None:
    """TRL takes it for one that has: it would be trained on, and count among those that end."""
    options = {"mask_truncated_completions": True, "missing_eos_penalty": 0.5}
    trainer, rollout = trained(algorithm, gpt2_path, tmp_path, [1.0] * 8, **options)
    assert rollout.completion_mask.any(dim=1).tolist() == HAS_ENDED
    assert rollout.completion_mask.sum(dim=1).tolist() == [2, 0, 3, 2, 3, 2, 0, 2]
    assert rollout.mean_length[0] == 14 / 8  # of the tokens that count
    assert rollout.rewards.tolist() == [1.0 if ended else 0.5 for ended in HAS_ENDED]
    log = trainer.state.log_history[0]
    assert log["completions/clipped_ratio"] == 2 / 8
    assert log["completions/mean_terminated_length"] == pytest.approx(14 / 6)
    assert (log["completions/min_terminated_length"], log["completions/max_terminated_length"]) == (2, 3)
    assert log["completions/mean_length"] == 30 / 8


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_rows_of_a_masked_completion_have_its_length(algorithm: str, gpt2_path: str, tmp_path: Path) -> None:
    options = {"mask_truncated_completions": True, "shuffle_dataset": False}
    trained(algorithm, gpt2_path, tmp_path, [1.0, 0.0] * 4, **options)
    rows = read_rollouts(tmp_path)
    assert [row["length"] for row in rows] == [2, 8, 3, 2, 3, 2, 8, 2]
    assert [row["finished"] for row in rows] == HAS_ENDED


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("options", "rewards", "counts"),
    [
        ({"mask_truncated_completions": True}, [1.0, 0.0] * 4, HAS_ENDED),
        ({}, [1.0, None, None, None, 0.5, 0.0, 0.5, 0.0], [True, False, False, False, True, True, True, True]),
    ],
    ids=["cut", "without a reward"],
)
def test_the_kl_of_a_completion_is_a_mean_over_those_that_count(
    algorithm: str, options: dict[str, Any], rewards: list[Any], counts: list[bool], gpt2_path: str, tmp_path: Path
) -> None:
    """Of others it is not known: with 0 for them a `max_kl` would be reached too late."""
    options = {"reference_model_name_or_path": tiny_gpt2(tmp_path / "reference", seed=5), **options}
    trainer, rollout = trained(algorithm, gpt2_path, tmp_path / "run", rewards, **options)
    kl = ((rollout.old_log_probs - rollout.ref_log_probs) * rollout.completion_mask).sum(dim=1)
    assert [bool(value) for value in kl] == counts
    assert trainer.state.log_history[0]["kl_per_sequence"] == pytest.approx(kl.sum().item() / sum(counts), rel=1e-5)


@pytest.mark.parametrize(
    ("rewards", "options", "share"),
    [
        ([1.0] * 8, {"missing_eos_penalty": 0.5}, 0.5),  # of equal texts those of two prompts end in part
        ([1.0, None, None, None, 0.5, 0.0, 0.5, 0.0], {}, 0.5),  # nothing that the one reward differs from
    ],
    ids=["penalty", "without a reward"],
)
def test_the_share_of_equal_prompts_is_of_the_rewards_that_are_trained_on(
    rewards: list[Any], options: dict[str, Any], share: float, gpt2_path: str, tmp_path: Path
) -> None:
    trainer, _ = trained("reinforce", gpt2_path, tmp_path, rewards, drop_equal_groups=True, **options)
    log = trainer.state.log_history[0]
    assert log["frac_reward_zero_std"] == log["dropped_groups"] == share


def test_the_least_share_that_is_clipped_is_of_completions_that_count(gpt2_path: str, tmp_path: Path) -> None:
    """A completion without a token has no share: with 0 for it the least one would mean nothing."""
    options = {"loss_level": "token", "num_iterations": 2, "max_steps": 2, "learning_rate": 0.5, "beta": 0.0}
    trainer, _ = trained("reinforce", gpt2_path, tmp_path, [-1.0, None] * 4, baseline="none", **options)
    first, second = trainer.state.log_history[:2]
    assert first["clip_ratio/low_min"] == 0
    assert second["clip_ratio/low_min"] > 0  # of a negative advantage: what was drawn has become less likely


def test_an_evaluation_is_not_timed_as_training(
    gpt2_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = itertools.count(step=0.001)
    waited = [0.0]
    clock = SimpleNamespace(perf_counter=lambda: next(now) + waited[0])
    monkeypatch.setattr("lmrl.trainers.meter.time", clock)

    def slow(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        waited[0] += 100.0 * ("evaluated" in prompts)
        return share_of_letters(completions)

    held_out = {"eval_dataset": [{"prompt": "evaluated"}], "per_device_eval_batch_size": 2}
    trainer = make_trainer("reinforce", gpt2_path, tmp_path, slow, eval_strategy="steps", eval_steps=1, **held_out)
    trainer.train()
    seconds = [log["time/reward"] for log in trainer.state.log_history if "loss" in log]
    assert waited[0] >= 200 and len(seconds) == 2 and max(seconds) < 1.0
