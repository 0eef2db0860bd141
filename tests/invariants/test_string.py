"""STRING: rewards get the exact texts and columns, and the order of a batch means nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from training import ALGORITHMS, make_trainer, one_rollout

DRAWN = {"a b": [10, 11, 1], "e": [12, 1], "f g h": [1], "i": [13, 14, 15, 16]}
TEXTS = {"a b": "h i", "e": "j", "f g h": "", "i": "k l m n"}  # token ids 3 .. 28 are a .. z


class Spy:
    """A reward that notes what it is called with."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(self, **kwargs: Any) -> list[float]:
        self.calls.append(kwargs)
        return [float(len(text)) for text in kwargs["completions"]]


def _trainer(algorithm: str, gpt2_path: str, folder: Path, prompts: list[str], **overrides: Any) -> tuple[Any, Spy]:
    rows = [{"prompt": prompt, "references": [prompt.upper(), "x"], "id": i} for i, prompt in enumerate(prompts)]
    spy = Spy()
    trainer = make_trainer(
        algorithm,
        gpt2_path,
        folder,
        reward=spy,
        train_dataset=Dataset.from_list(rows),
        per_device_train_batch_size=4,
        num_generations=1,
        **({"baseline": "none"} if algorithm == "reinforce" else {"normalize_advantages": False}),
        shuffle_dataset=False,
        **overrides,
    )
    words = trainer._tokenizer
    trainer._generate_single_turn = lambda ids, *_: [list(DRAWN[words.decode(row)]) for row in ids]
    return trainer, spy


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_reward_gets_texts_without_eos_and_every_column(algorithm: str, gpt2_path: str, tmp_path: Path) -> None:
    trainer, spy = _trainer(algorithm, gpt2_path, tmp_path, list(DRAWN))
    one_rollout(trainer)
    (call,) = spy.calls
    assert call["prompts"] == list(DRAWN)
    assert call["completions"] == [TEXTS[prompt] for prompt in DRAWN]
    assert call["completion_ids"] == list(DRAWN.values())
    assert call["references"] == [[prompt.upper(), "x"] for prompt in DRAWN]
    assert call["id"] == [0, 1, 2, 3]
    assert call["trainer_state"] is trainer.state


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_ids_trained_on_are_the_ids_drawn(algorithm: str, gpt2_path: str, tmp_path: Path) -> None:
    trainer, _ = _trainer(algorithm, gpt2_path, tmp_path, list(DRAWN))
    rollout = one_rollout(trainer)
    for row, ids in enumerate(DRAWN.values()):
        kept = rollout.completion_ids[row][rollout.completion_mask[row].bool()]
        assert kept.tolist() == ids
    assert [row[mask.bool()].tolist() for row, mask in zip(rollout.prompt_ids, rollout.prompt_mask, strict=True)] == [
        trainer._tokenizer(prompt)["input_ids"] for prompt in DRAWN
    ]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_permuting_the_batch_permutes_rewards_and_advantages(algorithm: str, gpt2_path: str, tmp_path: Path) -> None:
    def advantages(prompts: list[str]) -> dict[str, torch.Tensor]:
        trainer, _ = _trainer(algorithm, gpt2_path, tmp_path, prompts, num_iterations=2)
        rollout = one_rollout(trainer)
        return dict(zip(prompts, rollout.advantages, strict=True))

    straight, turned = advantages(list(DRAWN)), advantages(list(reversed(DRAWN)))
    for prompt in DRAWN:
        assert torch.allclose(straight[prompt], turned[prompt], atol=1e-5), prompt


def test_the_completions_of_a_prompt_stand_side_by_side(gpt2_path: str, tmp_path: Path) -> None:
    spy = Spy()
    trainer = make_trainer("reinforce", gpt2_path, tmp_path, reward=spy, num_generations=4)
    one_rollout(trainer)
    prompts = spy.calls[0]["prompts"]
    assert prompts[:4] == [prompts[0]] * 4 and prompts[4:] == [prompts[4]] * 4 and prompts[0] != prompts[4]


def test_a_chat_prompt_gives_chat_completions(gpt2_path: str, tmp_path: Path) -> None:
    rows = [{"prompt": [{"role": "user", "content": letter}]} for letter in "abcd"]
    seen: list[Any] = []

    def reward(completions: list[Any], prompts: list[Any], **_: Any) -> list[float]:
        seen.extend(zip(prompts, completions, strict=True))
        return [float(i) for i in range(len(completions))]

    trainer = make_trainer("reinforce", gpt2_path, tmp_path, reward=reward, train_dataset=Dataset.from_list(rows))
    one_rollout(trainer)
    prompt, completion = seen[0]
    assert prompt[0]["role"] == "user"
    assert completion[0]["role"] == "assistant" and isinstance(completion[0]["content"], str)


def test_the_table_of_completions_shows_the_advantages_trained_on(gpt2_path: str, tmp_path: Path) -> None:
    trainer = make_trainer("reinforce", gpt2_path, tmp_path, num_iterations=2, baseline="none", beta=0.0)
    rollout = one_rollout(trainer)
    assert list(trainer._logs["advantages"]) == pytest.approx(rollout.rewards.tolist())
