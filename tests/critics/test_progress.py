"""Potentials of a rollout: the total reward as if the text ended before each token, and rewards that have none."""

import re
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from lmrl import core
from lmrl.critics import RewardProgress, check_potentials
from lmrl.rewards import BLEU, REWARDS, TER, DistinctN, Length, Reward
from tests.tiny import tiny_tokenizer
from tests.training import make_trainer, one_rollout


def tokens_of(*texts: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the ids of texts, of which the first is the longest, padded on the right, and their mask."""
    tokenizer = tiny_tokenizer()
    rows = [tokenizer(text).input_ids for text in texts]
    ids = torch.tensor([row + [0] * (len(rows[0]) - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (len(rows[0]) - len(row)) for row in rows])
    return ids, mask


def test_numbers_are_padded_with_zeros_where_no_token_counts() -> None:
    """Of the text so far, which is empty before the first token."""
    ids, mask = tokens_of("a b c", "b")
    rewards = [BLEU(), Length(2), len]
    reader = RewardProgress(rewards, torch.ones(3), None, Accelerator(cpu=True), tiny_tokenizer())
    columns = [{"prompt": "p", "references": ["a b"]}, {"prompt": "p", "references": ["b"]}]
    reader.keep_columns(columns, ["p", "p"])
    numbers = reader.numbers(ids, mask)
    assert numbers.shape == (*mask.shape, 20)
    assert numbers[..., 1].tolist() == [[0.0, 1.0, 2.0], [0.0, 0.0, 0.0]]
    assert numbers[..., 19].tolist() == [[0.0, 0.5, 1.0], [0.0, 0.0, 0.0]]


def test_without_any_progress_there_are_no_numbers() -> None:
    reader = RewardProgress([len], torch.ones(1), None, Accelerator(cpu=True), tiny_tokenizer())
    assert reader.numbers(torch.ones(2, 3).long(), torch.ones(2, 3)).shape == (2, 3, 0)


def test_potentials_are_the_total_rewards_of_the_texts_so_far() -> None:
    """Weighted and clipped as rewards are; 0 where no token counts."""
    ids, mask = tokens_of("a b b", "b")
    weighing = (torch.tensor([1.0, 2.0]), (0.0, 2.5))
    reader = RewardProgress([Length(2), DistinctN(1)], *weighing, Accelerator(cpu=True), tiny_tokenizer())
    reader.keep_columns([{"prompt": "p"}, {"prompt": "p"}], ["p", "p"])
    found = reader.potentials(ids, mask)
    assert found.tolist() == [[2.0, 2.5, 2.5], [2.0, 0.0, 0.0]]


def test_a_reward_without_a_potential_is_refused_and_those_with_one_are_named() -> None:
    with pytest.raises(ValueError, match=r"`shaping` must be None .* got 'progress' with \['ter', 'len'\]") as refused:
        check_potentials([TER(), len, Length(2)])
    named = re.findall(r"\b[A-Z]\w+", str(refused.value))
    classes = {getattr(reward, "func", reward) for reward in REWARDS.values()}
    potential = {reward.__name__ for reward in classes if isinstance(reward, type) and reward.potential is not None}
    assert potential <= set(named)


@pytest.mark.parametrize("critic", ["shared", "least_squares"])
def test_dense_rewards_of_a_rollout_sum_up_to_its_rewards(critic: str, gpt2_path: str, tmp_path: Path) -> None:
    """And a run trains on them."""
    reward: Reward = 0.5 * Length(4) + DistinctN(1)
    options = {"critic": critic, "shaping": "progress", "lam": 0.9, "num_iterations": 2, "max_steps": 1}
    trainer = make_trainer("ppo", gpt2_path, tmp_path, reward, **options)
    rollout = one_rollout(trainer)
    dense = trainer._token_rewards(rollout)
    torch.testing.assert_close(dense.sum(dim=1), rollout.rewards)
    assert (dense != 0).sum() > (core.place_at_end(rollout.rewards, rollout.completion_mask) != 0).sum()
    trainer.train()
    assert "value/explained_variance" in trainer.state.log_history[0]


@pytest.mark.parametrize(("algorithm", "extra"), [("ppo", {}), ("reinforce", {"loss_level": "token"})])
def test_shaping_of_another_kind_is_refused(
    algorithm: str, extra: dict[str, str], gpt2_path: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="`shaping` must be"):
        make_trainer(algorithm, gpt2_path, tmp_path, shaping="dense", **extra)
    with pytest.raises(ValueError, match="`shaping` must be None with a reward that has no potential"):
        make_trainer(algorithm, gpt2_path, tmp_path, shaping="progress", **extra)
