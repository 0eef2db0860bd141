"""Rollouts survive the dictionary that TRL carries, with what algorithms put into them."""

import gc
import weakref
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import torch
from training import make_trainer, one_rollout, share_of_letters
from trl.trainer.utils import shuffle_sequence_dict, split_tensor_dict

from lmrl.core import ended, weighted_rewards
from lmrl.models import ScoredCompletions
from lmrl.trainers import Credit, Rollout

NAN = float("nan")


def rollout(**more: Any) -> Rollout:
    """Returns four completions of up to two tokens."""
    tensors = {
        "prompt_ids": torch.tensor([[0, 6], [7, 8], [0, 9], [7, 6]]),
        "prompt_mask": torch.tensor([[0, 1], [1, 1], [0, 1], [1, 1]]),
        "completion_ids": torch.tensor([[10, 1], [1, 0], [11, 12], [13, 1]]),
        "completion_mask": torch.tensor([[1, 1], [1, 0], [1, 1], [0, 0]]),
        "rewards": torch.tensor([1.0, 2.0, 3.0, NAN]),
        "mean_length": torch.full((4,), 1.25),
    }
    return Rollout.from_dict({**tensors, **more})


def test_a_rollout_survives_the_shuffle_and_the_cut_of_trl_with_the_tensors_of_an_algorithm() -> None:
    places = torch.arange(4)
    given = rollout(position=places, own=places * 10)
    assert given.extra["own"].tolist() == [0, 10, 20, 30]
    batches = split_tensor_dict(shuffle_sequence_dict(given.to_dict()), 2)
    served = [Rollout.from_dict(batch) for batch in batches]
    assert sorted(torch.cat([batch.position for batch in served]).tolist()) == [0, 1, 2, 3]
    for batch in served:
        assert torch.equal(batch.extra["own"], batch.position * 10)
        assert torch.equal(batch.completion_ids, given.completion_ids[batch.position])


def test_rows_go_back_into_the_order_of_generation() -> None:
    order = torch.tensor([2, 0, 3, 1])
    shuffled = rollout(position=torch.arange(4)).map(lambda tensor: tensor[order])
    assert shuffled.rewards[:2].tolist() == [3.0, 1.0]
    assert shuffled.in_order_of_generation().rewards[:3].tolist() == [1.0, 2.0, 3.0]


def test_what_is_absent_is_none_and_not_carried() -> None:
    assert rollout().old_log_probs is None and rollout().advantages is None
    assert set(rollout().to_dict()) == {
        *("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "rewards", "mean_length"),
    }


def test_a_rollout_cannot_be_changed_in_place() -> None:
    with pytest.raises(FrozenInstanceError):
        rollout().advantages = torch.zeros(4)


def test_credit_of_a_completion_without_reward_is_zero() -> None:
    credit = Credit(
        advantages=torch.tensor([1.0, -1.0, 0.5, NAN]), extra={"baseline": torch.tensor([0.0, 3.0, 2.5, NAN])}
    )
    credited = rollout(kept=torch.ones(4)).with_credit(credit)
    assert credited.advantages.tolist() == [1.0, -1.0, 0.5, 0.0]
    assert credited.extra["baseline"].tolist() == [0.0, 3.0, 2.5, 0.0]
    assert credited.extra["kept"].tolist() == [1.0] * 4
    assert credited.returns is None


def test_inputs_are_prompts_and_completions_side_by_side() -> None:
    assert rollout().input_ids.tolist()[1] == [7, 8, 1, 0]
    assert rollout().attention_mask.tolist()[1] == [1, 1, 1, 0]


def test_batches_are_of_so_many_rows_the_last_one_smaller() -> None:
    assert [batch.rewards.tolist()[0] for batch in rollout().split(3)][:1] == [1.0]
    assert [len(batch.rewards) for batch in rollout(own=torch.ones(4)).split(3)] == [3, 1]


def test_the_pass_of_the_policy_carries_no_gradient() -> None:
    log_probs = torch.zeros(4, 2, requires_grad=True)
    scored = ScoredCompletions(log_probs=log_probs, entropy=log_probs, state_values=log_probs + 1)
    passed = rollout().with_policy_pass(scored)
    assert not passed.old_log_probs.requires_grad and not passed.old_values.requires_grad
    assert passed.old_values.tolist() == [[1.0, 1.0]] * 4


def test_rewards_are_weighted_clipped_and_nan_where_none_applied() -> None:
    per_func = torch.tensor([[1.0, 2.0], [NAN, 4.0], [NAN, NAN]])
    sums = weighted_rewards(per_func, torch.tensor([0.5, 1.0]), None)
    assert sums[:2].tolist() == [2.5, 4.0] and sums[2].isnan()
    clipped = weighted_rewards(per_func, torch.tensor([0.5, 1.0]), (0.0, 3.0))
    assert clipped[:2].tolist() == [2.5, 3.0] and clipped[2].isnan()


def test_a_completion_has_ended_if_an_eos_counts() -> None:
    given = rollout()
    assert ended(given.completion_ids, given.completion_mask, [1, 12]).tolist() == [True, True, True, False]


def test_credit_cannot_replace_a_field_of_the_rollout() -> None:
    credit = Credit(advantages=torch.zeros(4), extra={"rewards": torch.zeros(4)})
    with pytest.raises(ValueError, match="must not have names of Rollout's fields, got 'rewards'"):
        rollout().with_credit(credit)


def test_the_mean_length_counts_completions_without_a_reward(gpt2_path: str, tmp_path: Path) -> None:
    def all_but_first(completions: list[str], **_: Any) -> list[float | None]:
        return [None, *share_of_letters(completions)[1:]]

    trainer = make_trainer("ppo", gpt2_path, tmp_path, reward=all_but_first)
    first = one_rollout(trainer)
    lengths = []
    for ids in first.completion_ids.tolist():
        ends = [place for place, token in enumerate(ids) if token in trainer.eos_token_ids]
        lengths.append(ends[0] + 1 if ends else len(ids))
    assert first.completion_mask[0].sum() == 0
    assert lengths[0] > 0
    assert first.mean_length.tolist() == pytest.approx([sum(lengths) / 8] * 8)


def test_a_trainer_is_freed_with_its_last_use(gpt2_path: str, tmp_path: Path) -> None:
    trainer = make_trainer("ppo", gpt2_path, tmp_path)
    trainer.accelerator.free_memory()
    alive = weakref.ref(trainer)
    gc.disable()
    try:
        del trainer
        assert alive() is None
    finally:
        gc.enable()
