"""HAND: what the trainers make of rewards, worked out by hand on completions of two and three tokens."""

from pathlib import Path

import pytest
import torch
from training import make_trainer

from lmrl.core import ended
from lmrl.trainers import Rollout

NAN = float("nan")
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])
OLD = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, -1.0, 0.0]])
REF = torch.tensor([[-1.5, -2.0, -2.0], [-2.0, -1.0, 0.0]])  # k1: .5 0 -1 and 1 0
REWARDS = torch.tensor([2.0, 4.0])


def _rollout(**more: torch.Tensor) -> Rollout:
    tensors = {
        "prompt_ids": torch.tensor([[6], [7]]),
        "prompt_mask": torch.ones(2, 1, dtype=torch.long),
        "completion_ids": torch.tensor([[8, 9, 10], [8, 1, 0]]),
        "completion_mask": MASK,
        "rewards": REWARDS,
        "old_log_probs": OLD,
        "ref_log_probs": REF,
        "mean_length": torch.tensor([2.5, 2.5]),
    }
    return Rollout.from_dict({**tensors, **more})


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [
        # less .1 * KL (-.5 and 1) the rewards are 2.05 and 3.9
        ("none", [2.05, 3.9]),
        ("batch_mean", [-0.925, 0.925]),
        ("leave_one_out", [-1.85, 1.85]),
        ("shrinkage", [-1.85, 1.85]),  # of one prompt there is nothing else
        ("moving_average", [-0.925, 0.925]),  # the first rollout's own mean
        ("greedy", [1.05, 2.4]),
    ],
)
def test_reinforce_advantages(baseline: str, expected: list[float], gpt2_path: str, tmp_path: Path) -> None:
    trainer = make_trainer("reinforce", gpt2_path, tmp_path, baseline=baseline, beta=0.1)
    credit = trainer.credit(_rollout(greedy_rewards=torch.tensor([1.0, 1.5])))
    assert credit.advantages.tolist() == pytest.approx(expected, abs=1e-6)


def test_the_moving_average_remembers_the_rollouts_before(gpt2_path: str, tmp_path: Path) -> None:
    trainer = make_trainer(
        "reinforce", gpt2_path, tmp_path, baseline="moving_average", baseline_decay=0.5, beta=0.0, num_generations=1
    )
    trainer.credit(_rollout())  # mean 3
    trainer.credit(_rollout(rewards=torch.tensor([4.0, 6.0])))  # average (3 + 5) / 2
    assert trainer.credit(_rollout()).advantages.tolist() == [-2.0 + 0.0, 0.0]


def test_reinforce_normalised_advantages(gpt2_path: str, tmp_path: Path) -> None:
    trainer = make_trainer("reinforce", gpt2_path, tmp_path, normalize_advantages=True, beta=0.0)
    # leave-one-out -2 and 2: mean 0, unbiased standard deviation sqrt(8)
    assert trainer.credit(_rollout()).advantages.tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5], abs=1e-5)


def test_ppo_advantages_and_returns(gpt2_path: str, tmp_path: Path) -> None:
    options = {"gamma": 1.0, "lam": 0.5, "normalize_advantages": False, "critic": "shared"}
    trainer = make_trainer("ppo", gpt2_path, tmp_path, beta=0.1, **options)
    trainer._step = 1  # not the first rollout, where a fresh critic is moved to the mean reward
    values = torch.tensor([[1.0, 1.5, 1.8], [2.0, 3.0, NAN]])
    credit = trainer.credit(_rollout(old_values=values))
    # rewards of tokens: -.05 0 2.1 and -.1 4
    # row 0: deltas -.05+1.5-1=.45, 1.8-1.5=.3, 2.1-1.8=.3; A = .675, .45, .3
    # row 1: deltas -.1+3-2=.9, 4-3=1; A = 1.4, 1
    expected = torch.tensor([[0.675, 0.45, 0.3], [1.4, 1.0, 0.0]])
    assert torch.allclose(credit.advantages.nan_to_num(0), expected, atol=1e-6)
    returns = credit.returns[MASK.bool()]
    assert returns.tolist() == pytest.approx([1.675, 1.95, 2.1, 3.4, 4.0], abs=1e-6)
    logged = trainer._metrics["train"]
    assert logged["returns/mean"][-1] == pytest.approx(2.625, abs=1e-6)


def test_ppo_loss_is_a_mean_over_the_tokens_of_the_rollout(gpt2_path: str, tmp_path: Path) -> None:
    from lmrl.models import ScoredCompletions

    trainer = make_trainer("ppo", gpt2_path, tmp_path, critic="shared", vf_coef=0.5, entropy_coef=0.1)
    rollout = _rollout(
        advantages=torch.tensor([[1.0, -1.0, 2.0], [3.0, 1.0, 9.0]]),
        old_values=torch.zeros(2, 3),
        returns=torch.ones(2, 3),
    )
    entropy, values = torch.full((2, 3), 2.0), torch.full((2, 3), 0.1)
    loss = trainer.loss(ScoredCompletions(log_probs=OLD.clone(), entropy=entropy, state_values=values), rollout)
    # 5 tokens: policy -(1 - 1 + 2 + 3 + 1)/5 = -1.2; value .5 * .81/2 = .2025; entropy .1 * 2
    assert loss.item() == pytest.approx(-1.2 + 0.2025 - 0.2, abs=1e-6)


def test_the_reward_is_weighted_clipped_and_charged_for_not_ending(gpt2_path: str, tmp_path: Path) -> None:
    trainer = make_trainer(
        "reinforce",
        gpt2_path,
        tmp_path,
        reward_clip_range=(-1.0, 1.0),
        missing_eos_penalty=0.25,
        num_generations=1,
        baseline="none",
    )
    trainer.reward_weights = torch.tensor([2.0, 1.0])
    per_func = torch.tensor([[0.3, 0.1], [0.4, 0.8], [NAN, 0.5], [NAN, NAN]])
    trainer._metrics["train"] |= {"reward": [0.0], "reward_std": [0.0], "frac_reward_zero_std": [0.0]}
    ones = torch.ones(4, 2, dtype=torch.int)
    completion_ids = torch.tensor([[5, 1], [5, 6], [5, 1], [5, 1]])
    sampled = {"prompt_ids": ones, "prompt_mask": ones, "completion_ids": completion_ids, "completion_mask": ones}
    rewards = trainer.total_rewards(per_func, ended(completion_ids, ones, trainer.eos_token_ids))
    trainer.meter.log_rewards(rewards, ones.sum(dim=1), ones[:, 0].bool(), 1)
    rollout = Rollout.from_sampled(sampled, rewards, ones.sum(dim=1).float(), {})
    assert rollout.rewards[:3].tolist() == pytest.approx([0.7, 0.75, 0.5])
    assert rollout.rewards[3].isnan()
    assert rollout.completion_mask.sum(1).tolist() == [2, 2, 2, 0]
    assert rollout.mean_length.tolist() == [2.0] * 4  # completions without a reward count
    assert trainer._metrics["train"]["reward"][-1] == pytest.approx(0.65)


def test_an_unscorable_completion_moves_nothing(gpt2_path: str, tmp_path: Path) -> None:
    def sometimes(completions: list[str], **_: object) -> list[float | None]:
        return [None if i % 4 == 0 else float(i) for i in range(len(completions))]

    for algorithm in ("reinforce", "ppo"):
        trainer = make_trainer(algorithm, gpt2_path, tmp_path, reward=sometimes, num_iterations=2)
        trainer.train()
        assert torch.isfinite(torch.tensor(trainer.state.log_history[0]["grad_norm"]))


def test_the_adaptive_coefficient_follows_the_logged_kl(gpt2_path: str, tmp_path: Path) -> None:
    trainer = make_trainer(
        "ppo",
        gpt2_path,
        tmp_path,
        beta=0.1,
        kl_target=0.5,
        kl_horizon=80.0,
        max_steps=4,
        learning_rate=1e-2,
        num_iterations=1,
    )
    trainer.train()
    logs = [log for log in trainer.state.log_history if "kl_coef" in log]
    coefficient = 0.1
    for log in logs:
        assert log["kl_coef"] == pytest.approx(coefficient, rel=1e-6)
        error = min(max(log["kl_per_sequence"] / 0.5 - 1, -0.2), 0.2)
        coefficient *= 1 + error * 8 / 80
    assert len(logs) == 4 and logs[-1]["kl_coef"] != 0.1


def test_training_stops_when_the_kl_passes_its_bound(gpt2_path: str, tmp_path: Path) -> None:
    trainer = make_trainer("reinforce", gpt2_path, tmp_path, max_kl=1e-3, max_steps=50, learning_rate=1e-2)
    trainer.train()
    assert 1 < trainer.state.global_step < 50
