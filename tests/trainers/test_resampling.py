"""Prompts that are sampled anew because their completions all got the same reward."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny import WORDS
from training import make_trainer, one_rollout

from lmrl.trainers import PolicyGradientTrainer

LOW = WORDS.index("c")  # the reward of a completion is whether its first token is behind it
A = [LOW, 1]
B = [LOW + 1, LOW + 2, 1]
DROPPED: dict[str, Any] = {"drop_equal_groups": True, "shuffle_dataset": False}


class Behind:
    """Reward of 1 for a first token behind another; counts what it scores, and logs it in TRL's table."""

    __name__ = "behind"

    def __init__(self, low: int = LOW) -> None:
        self.low = low
        self.scored = 0

    def __call__(self, completion_ids: list[list[int]], log_extra: Any, log_metric: Any, **_: Any) -> list[float]:
        """Returns the rewards."""
        self.scored += len(completion_ids)
        log_extra("first", [ids[0] for ids in completion_ids])
        log_metric("scored", len(completion_ids))
        return [float(ids[0] > self.low) for ids in completion_ids]

    def state_dict(self) -> dict[str, Any]:
        """Returns nothing before anything is scored."""
        return {"scored": self.scored} if self.scored else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the number."""
        self.scored = state.get("scored", 0)


def scripted(trainer: PolicyGradientTrainer, *draws: list[list[int]]) -> list[list[int]]:
    """Has a trainer sample what is given; returns the rows that it samples for, as places among the prompts."""
    requested: list[list[int]] = []
    left = iter(draws)
    places: dict[tuple[int, ...], int] = {}

    def sample(prompt_ids: list[list[int]], *_: Any) -> list[list[int]]:
        requested.append([places.setdefault(tuple(ids), len(places)) for ids in prompt_ids])
        return [list(ids) for ids in next(left)]

    trainer._generate_single_turn = sample  # type: ignore[method-assign]
    return requested


FIRST = [A, B, A, A, B, B, B, A]


@pytest.mark.parametrize(
    ("attempts", "draws", "requested", "expected", "left"),
    [
        (1, [[B, A, B, B]], [[1, 1, 2, 2]], [A, B, B, A, B, B, B, A], 0.25),
        (3, [[B, A, A, A], [B, A]], [[1, 1, 2, 2], [2, 2]], [A, B, B, A, B, A, B, A], 0.0),
        (2, [[B, B, A, A], [A, A, B, B]], [[1, 1, 2, 2]] * 2, [A, B, A, A, B, B, B, A], 0.5),
    ],
)
def test_only_prompts_with_equal_rewards_are_sampled_anew_until_they_differ_or_the_bound_is_reached(
    attempts: int, draws: Any, requested: Any, expected: Any, left: float, gpt2_path: str, tmp_path: Path
) -> None:
    reward = Behind()
    options = {**DROPPED, "num_iterations": 2, "resample_equal_groups": attempts}
    trainer = make_trainer("reinforce", gpt2_path, tmp_path, reward, **options)
    seen = scripted(trainer, FIRST, *draws)
    trainer._step = 1  # past the checks of the first rollout
    rollout = one_rollout(trainer)
    assert seen == [[0, 0, 1, 1, 2, 2, 3, 3], *requested]
    lengths = rollout.completion_mask.sum(dim=1).tolist()
    assert [ids[:length] for ids, length in zip(rollout.completion_ids.tolist(), lengths, strict=True)] == expected
    assert rollout.rewards.tolist() == [float(ids == B) for ids in expected]
    logged = trainer.meter.values["train"]
    assert logged["resampling/attempts"] == [len(draws)] and logged["resampling/equal_groups"] == [0.5]
    assert logged["resampling/reward"] == [0.5] and logged["dropped_groups"] == [left]
    # what was only looked at is in no state, table or figure
    assert reward.scored == 8 and logged["scored"] == [8.0]
    assert list(trainer._logs["extra"]["first"]) == [ids[0] for ids in expected]


def test_vllm_samples_every_prompt_and_the_others_keep_what_they_have(gpt2_path: str, tmp_path: Path) -> None:
    trainer = make_trainer("reinforce", gpt2_path, tmp_path, Behind(), resample_equal_groups=1, **DROPPED)
    trainer.use_vllm = True
    seen = scripted(trainer, FIRST, [B, A, B, A, A, B, A, B])
    trainer._step = 1
    rollout = one_rollout(trainer)
    assert seen == [[0, 0, 1, 1, 2, 2, 3, 3]] * 2
    assert rollout.completion_ids[:, 0].tolist() == [ids[0] for ids in (A, B, B, A, A, B, B, A)]


def test_the_greedy_completions_of_a_baseline_are_in_no_table(gpt2_path: str, tmp_path: Path) -> None:
    reward = Behind()
    trainer = make_trainer("reinforce", gpt2_path, tmp_path, reward, baseline="greedy")
    rollout = one_rollout(trainer)
    assert list(trainer._logs["extra"]["first"]) == rollout.completion_ids[:, 0].tolist()
    assert reward.scored == 8 and trainer.meter.values["train"]["scored"] == [8.0]


def test_groups_that_differ_come_as_often_as_rejection_gives_them(gpt2_path: str, tmp_path: Path) -> None:
    groups = 2048
    reward = Behind()
    trainer = make_trainer(
        "reinforce",
        gpt2_path,
        tmp_path,
        reward,
        resample_equal_groups=2,
        per_device_train_batch_size=2 * groups,
        max_completion_length=1,
        beta=0.0,
        train_dataset=Dataset.from_list([{"prompt": "a b c d"}] * groups),
        **DROPPED,
    )
    prompt = torch.tensor([trainer._tokenizer("a b c d")["input_ids"]])
    with torch.no_grad():
        probs = trainer.model.eval()(input_ids=prompt).logits[0, -1].softmax(-1)
    trainer.model.train()
    reward.low = int((probs.cumsum(0) < 0.7).sum())
    behind = probs[reward.low + 1 :].sum().item()
    equal = behind**2 + (1 - behind) ** 2
    torch.manual_seed(0)
    trainer._step = 1
    rollout = one_rollout(trainer)
    drawn = defaultdict(float)
    for first, second in rollout.rewards.view(-1, 2).tolist():
        drawn[first, second] += 1 / groups
    tried = 1 + equal + equal**2  # times that a prompt is sampled, in the mean
    exact = {(value, 1 - value): behind * (1 - behind) * tried for value in (0.0, 1.0)}
    exact |= {(0.0, 0.0): (1 - behind) ** 2 * equal**2, (1.0, 1.0): behind**2 * equal**2}
    assert 0.1 < behind < 0.3 and sum(exact.values()) == pytest.approx(1)
    for pair, share in exact.items():
        assert drawn[pair] == pytest.approx(share, abs=4 * (share * (1 - share) / groups) ** 0.5), pair


@pytest.mark.parametrize("reused", [{"num_iterations": 2}, {"steps_per_generation": 2}])
def test_the_log_probabilities_that_come_with_tokens_are_those_of_the_tokens_that_are_kept(
    reused: dict[str, Any], gpt2_path: str, tmp_path: Path
) -> None:
    options = {**DROPPED, **reused, "temperature": 0.7, "beta": 0.0, "max_completion_length": 12}
    trainer = make_trainer("reinforce", gpt2_path, tmp_path, Behind(), resample_equal_groups=4, **options)
    trainer._step = 1
    for _ in range(2):  # they are compared on the first rollout, and trusted from then on
        rollout = one_rollout(trainer)
    assert trainer.sampled._is_same and max(trainer.meter.values["train"]["resampling/attempts"]) > 0
    with torch.no_grad():
        scored = trainer.scorer.forward(trainer.model, rollout)
    assert torch.allclose(rollout.old_log_probs, scored.log_probs, atol=1e-5)


def test_held_out_prompts_are_sampled_once(gpt2_path: str, tmp_path: Path) -> None:
    trainer = make_trainer("reinforce", gpt2_path, tmp_path, Behind(), resample_equal_groups=1, **DROPPED)
    seen = scripted(trainer, [A] * 8)
    trainer.model.eval()
    one_rollout(trainer)
    assert len(seen) == 1
