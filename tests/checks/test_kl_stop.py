"""The stop within the updates of a rollout, of a real run: what is left out, and what it moves."""

from pathlib import Path
from typing import Any

import pytest
import torch
from training import make_trainer, one_rollout
from transformers import TrainerCallback

EPOCHS = {"num_iterations": 3, "max_steps": 6, "learning_rate": 2e-2, "max_grad_norm": 1e9}


class Weights(TrainerCallback):
    """Keeps a copy of one weight after each step."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Called after the optimizer."""
        self.seen.append(model.transformer.h[0].mlp.c_fc.weight.detach().clone())


def trained(algorithm: str, model: str, folder: Path, **options: Any) -> tuple[list[bool], Any]:
    """Returns which of the steps after the first moved the policy, and the trainer."""
    weights = Weights()
    trainer = make_trainer(algorithm, model, folder, callbacks=[weights], **{**EPOCHS, **options})
    trainer.train()
    return [not torch.equal(*pair) for pair in zip(weights.seen, weights.seen[1:], strict=False)], trainer


@pytest.mark.parametrize("algorithm", ["reinforce", "ppo"])
def test_updates_too_far_from_the_rollout_are_left_out_and_move_nothing(
    algorithm: str, gpt2_path: str, tmp_path: Path
) -> None:
    moved, _ = trained(algorithm, gpt2_path, tmp_path / "free")
    assert moved == [True] * 5
    # the first update of a rollout is at a KL of 0, the second is already too far
    moved, trainer = trained(algorithm, gpt2_path, tmp_path / "stopped", target_kl=1e-6)
    assert moved == [False, False, True, False, False]
    logs = [log.get("updates_left_out") for log in trainer.state.log_history[:6]]
    assert logs == [None, 1.0, 2.0, None, 3.0, 4.0]
    assert trainer.state.global_step == 6
    moved, trainer = trained(algorithm, gpt2_path, tmp_path / "far", target_kl=1e3)
    assert moved == [True] * 5 and trainer.kl_stop.left_out == 0


def test_accumulated_batches_are_left_out_together(gpt2_path: str, tmp_path: Path) -> None:
    batches = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "steps_per_generation": 4}
    moved, trainer = trained("reinforce", gpt2_path, tmp_path, target_kl=1e-6, num_iterations=1, **batches)
    # two updates a rollout, of two batches each
    assert moved == [False, True, False, True, False] and trainer.kl_stop.left_out == 3


def test_the_kl_is_that_of_stable_baselines(gpt2_path: str, tmp_path: Path) -> None:
    trainer = make_trainer("reinforce", gpt2_path, tmp_path, **EPOCHS, target_kl=0.01)
    rollout = one_rollout(trainer)
    moved = rollout.old_log_probs + 0.1 * torch.randn_like(rollout.old_log_probs)
    log_ratio = (moved - rollout.old_log_probs)[rollout.completion_mask.bool()]
    expected = ((log_ratio.exp() - 1) - log_ratio).mean().item()
    for rows in (slice(0, 4), slice(4, 8)):
        trainer.kl_stop.watch(moved[rows], rollout.map(lambda tensor, rows=rows: tensor[rows]), batch=1)
    total, count = trainer.kl_stop._kl
    assert total / count == pytest.approx(expected, rel=1e-4)


def test_a_run_goes_on_within_a_rollout_whose_rest_is_left_out(gpt2_path: str, tmp_path: Path) -> None:
    options = {**EPOCHS, "target_kl": 1e-6, "save_strategy": "steps", "save_steps": 2}
    straight = make_trainer("reinforce", gpt2_path, tmp_path, **options)
    straight.train()
    resumed = make_trainer("reinforce", gpt2_path, tmp_path, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.kl_stop.state_dict() == straight.kl_stop.state_dict() == {"kl_stop": [6, 4]}
    weights = straight.model.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in resumed.model.state_dict().items())


def test_updates_left_out_after_an_evaluation_are_logged(gpt2_path: str, tmp_path: Path) -> None:
    """An evaluation leaves the policy in its mode, which names the figures to log."""
    held_out = {"eval_dataset": [{"prompt": "a"}], "held_out_metrics": lambda policy: {"bleu": 1.0}}
    evaluated = {**held_out, "eval_strategy": "steps", "eval_steps": 1}
    _, trainer = trained("reinforce", gpt2_path, tmp_path, target_kl=1e-6, **evaluated)
    logs = [log.get("updates_left_out") for log in trainer.state.log_history if "loss" in log]
    assert logs == [None, 1.0, 2.0, None, 3.0, 4.0]
