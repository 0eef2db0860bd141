"""SPLIT: cutting a rollout into micro-batches changes neither the gradient nor the number of steps."""

from pathlib import Path
from typing import Any

import pytest
import torch
from training import ALGORITHMS, PASSES, gradients, loss_of, make_trainer, one_rollout


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        ("reinforce", {}),
        ("reinforce", {"loss_level": "token", "loss_type": "grpo", "scale_rewards": "group"}),
        ("reinforce", {"loss_level": "token", "loss_type": "dapo", "drop_equal_groups": True}),
        ("ppo", {"entropy_coef": 0.1}),
    ],
    ids=["reinforce", "grpo", "dapo", "ppo"],
)
@pytest.mark.parametrize("scoring_pass", PASSES)
def test_eight_rows_or_four_times_two_or_eight_times_one(
    scoring_pass: str, algorithm: str, options: dict[str, Any], gpt2_path: str, tmp_path: Path
) -> None:
    trainer = make_trainer(algorithm, gpt2_path, tmp_path, num_iterations=2, scoring_pass=scoring_pass, **options)
    rollout = one_rollout(trainer)
    results = []
    for rows in (8, 2, 1):
        trainer.model.zero_grad()
        for start in range(0, 8, rows):
            part = rollout.map(lambda tensor, start=start, rows=rows: tensor[start : start + rows])
            (loss_of(trainer, part) * rows / 8).backward()
        results.append(gradients(trainer))
    for name, gradient in results[0].items():
        assert torch.allclose(gradient, results[1][name], atol=1e-6), name
        assert torch.allclose(gradient, results[2][name], atol=1e-6), name
    assert max(gradient.abs().max() for gradient in results[0].values()) > 1e-3


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_credit_in_the_training_pass_gives_the_gradient_of_credit_before_it(
    algorithm: str, gpt2_path: str, tmp_path: Path
) -> None:
    results = []
    for num_iterations in (1, 2):
        trainer = make_trainer(algorithm, gpt2_path, tmp_path, num_iterations=num_iterations)
        torch.manual_seed(7)
        rollout = one_rollout(trainer)
        assert (rollout.advantages is not None) == (num_iterations == 2)
        order = torch.randperm(8) if num_iterations == 1 else torch.arange(8)  # TRL shuffles what it serves
        loss_of(trainer, rollout.map(lambda tensor, order=order: tensor[order])).backward()
        results.append(gradients(trainer))
    for name, gradient in results[0].items():
        assert torch.allclose(gradient, results[1][name], atol=1e-6), name


@pytest.mark.parametrize(
    ("per_device", "accumulation", "steps_per_generation", "iterations"),
    [(8, 1, 1, 1), (2, 4, 4, 1), (2, 1, 4, 2), (4, 2, 2, 3)],
)
def test_optimiser_steps_are_epochs_times_minibatches(
    per_device: int, accumulation: int, steps_per_generation: int, iterations: int, gpt2_path: str, tmp_path: Path
) -> None:
    trainer = make_trainer(
        "ppo",
        gpt2_path,
        tmp_path,
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=accumulation,
        steps_per_generation=steps_per_generation,
        num_iterations=iterations,
        max_steps=-1,
        num_train_epochs=1,
        num_generations=1,
    )
    rollouts = []
    generate = trainer._generate_single_turn
    trainer._generate_single_turn = lambda *args: rollouts.append(1) or generate(*args)
    trainer.train()
    # 8 prompts are one rollout of 8 completions
    assert len(rollouts) == 1
    assert trainer.state.global_step == iterations * steps_per_generation // accumulation


def test_the_gradient_is_clipped(gpt2_path: str, tmp_path: Path) -> None:
    def huge(completions: list[str], **_: object) -> list[float]:
        return [1e6 * len(text) for text in completions]

    trainer = make_trainer("reinforce", gpt2_path, tmp_path, reward=huge, max_grad_norm=0.5, max_steps=1)
    norms = []
    clip = trainer.accelerator.clip_grad_norm_
    trainer.accelerator.clip_grad_norm_ = lambda parameters, bound: norms.append(bound) or clip(parameters, bound)
    trainer.train()
    assert norms == [0.5] and trainer.state.log_history[0]["grad_norm"] > 0.5


def test_a_served_batch_is_never_written_to(gpt2_path: str, tmp_path: Path) -> None:
    for algorithm in ALGORITHMS:
        for num_iterations in (1, 2):
            trainer = make_trainer(algorithm, gpt2_path, tmp_path, num_iterations=num_iterations)
            rollout = one_rollout(trainer)
            before = rollout.map(torch.clone).to_dict()
            loss_of(trainer, rollout).backward()
            after = rollout.to_dict()
            assert after.keys() == before.keys()
            assert all(torch.equal(after[name], before[name]) for name in before)
