"""Reward functions on probation: names, numbers of every kind, async ones, the columns they read."""

import asyncio
import functools
import math
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from training import PROMPTS, make_trainer, share_of_a, share_of_letters

from lmrl.checks import (
    AsyncCheckedReward,
    CheckedReward,
    RewardError,
    checked_rewards,
)
from lmrl.rewards import BLEU, Length, Weighted
from lmrl.utils import missing_columns

TEXTS = ["a", "b"]


def scored(values: Any) -> list[float | None]:
    """Returns what the checks make of the values that a reward returned for two completions."""
    return CheckedReward(lambda **_: values, "given")(prompts=["p", "q"], completions=TEXTS)


@pytest.mark.parametrize(
    "values",
    [
        [0.5, 2],
        (0.5, 2),
        [np.float32(0.5), np.int64(2)],
        np.array([0.5, 2.0]),
        np.array([[0.5], [2.0]]),
        [np.array(0.5), np.array([2.0])],
        [Fraction(1, 2), 2],
    ],
    ids=lambda values: type(values).__name__,
)
def test_numbers_of_every_kind_become_floats(values: Any) -> None:
    found = scored(values)
    assert found == [0.5, 2.0]
    assert [type(value) for value in found] == [float, float]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_tensor_is_taken_for_its_numbers(dtype: torch.dtype) -> None:
    tensor = torch.tensor([0.5, 2.0], dtype=dtype)
    assert scored(tensor) == scored(list(tensor)) == scored(tensor.unsqueeze(1)) == [0.5, 2.0]


def test_none_is_kept_and_true_is_one() -> None:
    assert scored([None, True]) == [None, 1.0]


@pytest.mark.parametrize("wrong", [math.nan, -math.inf, "1", b"1", [1.0], {}, 1j, np.array([1.0, 2.0]), object()])
def test_what_is_no_finite_number_is_named_with_its_row(wrong: Any) -> None:
    with pytest.raises(
        RewardError, match=r"'given' must return .* for row 1\. .* completion is 'b', of the prompt 'q'"
    ):
        scored([0.0, wrong])


@pytest.mark.parametrize("wrong", [None, 1.0, "ab", iter([1.0, 2.0]), Decimal(1)])
def test_what_is_no_list_is_refused(wrong: Any) -> None:
    with pytest.raises(RewardError, match=r"'given' must return a list of numbers, one per completion, got "):
        scored(wrong)


def test_long_values_are_cut_in_messages() -> None:
    with pytest.raises(RewardError) as caught:
        scored(["x" * 1000, 1.0])
    assert len(str(caught.value)) < 400


class Scorer:
    """A reward with state and without a name."""

    def __call__(self, completions: list[str], **_: Any) -> list[float]:
        return [0.0] * len(completions)

    def bound(self, completions: list[str], **_: Any) -> list[float]:
        return [0.0] * len(completions)


def test_every_callable_has_a_name_and_no_two_the_same() -> None:
    named = Scorer()
    named.__name__ = "named"
    rewards = [
        share_of_a,
        functools.partial(share_of_a),
        Scorer(),
        named,
        Scorer().bound,
        lambda **_: [0.0],
        share_of_a,
        Length(3),
        Length(5),
    ]
    assert [reward.__name__ for reward in checked_rewards(rewards)] == [
        *("share_of_a", "share_of_a_2", "Scorer", "named", "bound"),
        *("<lambda>", "share_of_a_7", "length", "length_9"),
    ]
    own = Scorer()
    own.__name__ = "share_of_a_3"
    names = [reward.__name__ for reward in checked_rewards([share_of_a, own, share_of_a])]
    assert names == ["share_of_a", "share_of_a_3", "share_of_a_3_3"]


def test_one_reward_needs_no_list() -> None:
    (reward,) = checked_rewards(share_of_a)
    assert reward(prompts=["p"], completions=["a b"]) == [0.5]


def test_an_async_reward_is_awaited_and_checked() -> None:
    async def slow(completions: list[str], **_: Any) -> list[Any]:
        await asyncio.sleep(0)
        return ["no"] if completions == ["bad"] else [np.float32(1.0)]

    async def broken(**_: Any) -> list[float]:
        raise OSError("no server")

    first, second = checked_rewards([slow, broken])
    assert isinstance(first, AsyncCheckedReward)
    assert asyncio.run(first(completions=["good"])) == [1.0]
    with pytest.raises(RewardError, match=r"'slow' must return a finite number, .* got 'no' for row 0"):
        asyncio.run(first(completions=["bad"]))
    with pytest.raises(
        RewardError, match=r"'broken' raised OSError: no server\. It was scoring the completion 'good'"
    ):
        asyncio.run(second(completions=["good"]))


def test_async_and_plain_rewards_train_together(gpt2_path: str, tmp_path: Path) -> None:
    seen = []

    async def later(completions: list[str], **_: Any) -> list[float]:
        await asyncio.sleep(0)
        seen.append(len(completions))
        return share_of_letters(completions)

    trainer = make_trainer("reinforce", gpt2_path, tmp_path, reward=[later, share_of_a], max_steps=1)
    trainer.train()
    assert seen == [8]
    logged = trainer.state.log_history[0]
    assert logged["rewards/later/mean"] > 0 and "rewards/share_of_a/mean" in logged


def test_a_column_that_trl_does_not_pass_on_is_an_error_before_training(gpt2_path: str, tmp_path: Path) -> None:
    rows = Dataset.from_list([{"prompt": prompt, "completion": "a b"} for prompt in PROMPTS])

    def reads_prompt(completions: list[str], prompt: list[str], **_: Any) -> list[float]:
        return [0.0]

    for reward, column in ((BLEU(column="completion"), "completion"), (reads_prompt, "prompt")):
        with pytest.raises(ValueError, match=f"must read another column than '{column}', which TRL does not pass on"):
            make_trainer("reinforce", gpt2_path, tmp_path, reward=reward, train_dataset=rows)
    with pytest.raises(ValueError, match="Add the column to the dataset, not as 'prompt' or 'completion', which TRL"):
        BLEU(column="completion")(completions=["a b"], references=["a b"])  # as a trainer of TRL calls it


def test_columns_are_those_stated_or_those_without_a_default() -> None:
    def reads(
        completions: list[str], mr: list[str], *, slots: list[str], weight: float = 1.0, **_: Any
    ) -> list[float]:
        return [0.0]

    def everything(prompts: Any, completions: Any, completion_ids: Any, trainer_state: Any, log_metric: Any) -> Any:
        return [0.0]

    cases = [
        (reads, ["prompt"], ["mr", "slots"]),
        (reads, ["prompt", "slots", "mr"], []),
        (everything, ["prompt"], []),
        (functools.partial(reads, slots=["s"]), ["prompt"], ["mr"]),
        (lambda **columns: [0.0], ["prompt"], []),
        (Scorer(), ["prompt"], []),
        (Scorer().bound, ["prompt"], []),
        (BLEU(), ["prompt"], ["references"]),
        (BLEU(column="human"), ["prompt", "references"], ["human"]),
        (BLEU(column="completion"), ["prompt", "completion"], ["completion"]),
        (lambda completions, prompt: [0.0], ["prompt"], ["prompt"]),
        (Length(3), ["prompt"], []),
    ]
    for reward, columns, missing in cases:
        assert missing_columns(reward, columns) == missing


def test_sums_of_one_name_are_refused_as_their_parts_would_be_logged_together() -> None:
    rewards = [0.5 * Length(target=3), 0.5 * Length(target=60)]
    with pytest.raises(
        ValueError, match=r"distinct names, .* got 'weighted_length' twice\. Give one .* another `name`"
    ):
        checked_rewards(rewards)
    named = Weighted([(Length(target=60), 0.5)], name="long")
    assert [reward.__name__ for reward in checked_rewards([rewards[0], named])] == ["weighted_length", "long"]
