"""Trainer's own evaluate, the moving reference, and the figures that every step logs."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from training import ALGORITHMS, make_trainer

HELD_OUT = Dataset.from_list([{"prompt": "a b c"}, {"prompt": "d"}, {"prompt": "e f"}])


@pytest.mark.parametrize("num_generations_eval", [1, 2])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_evaluate_logs_the_reward_and_moves_nothing(
    algorithm: str, num_generations_eval: int, gpt2_path: str, tmp_path: Path
) -> None:
    trainer = make_trainer(
        algorithm,
        gpt2_path,
        tmp_path,
        eval_dataset=HELD_OUT,
        num_generations_eval=num_generations_eval,
        per_device_eval_batch_size=2,
    )
    before = [parameter.clone() for parameter in trainer.model.parameters()]
    scores = trainer.evaluate()
    assert 0 <= scores["eval_reward"] <= 1
    assert scores["eval_kl_per_sequence"] == pytest.approx(0, abs=1e-5)
    assert all(torch.equal(old, new) for old, new in zip(before, trainer.model.parameters(), strict=True))
    assert trainer.train().global_step == 2  # the checks of the first rollout still come, and pass


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_figure_is_logged_and_finite(algorithm: str, gpt2_path: str, tmp_path: Path) -> None:
    trainer = make_trainer(algorithm, gpt2_path, tmp_path, num_iterations=2, num_generations=2)
    trainer.train()
    log = trainer.state.log_history[0]
    names = {
        *("reward", "reward_std", "rewards/share_of_letters/mean", "rewards/share_of_letters/std", "kl", "kl_coef"),
        *("kl_per_sequence", "entropy", "completions/mean_length", "completions/clipped_ratio", "advantages/mean"),
        *("advantages/std", "clip_ratio/region_mean", "time/generation", "time/scoring", "time/reward", "time/update"),
        *("samples_per_second", "tokens_per_second", "grad_norm"),
    }
    if algorithm == "ppo":
        names |= {"value/explained_variance", "value/loss", "value/clip_ratio", "policy/approx_kl", "returns/mean"}
    assert names <= log.keys(), names - log.keys()
    assert all(torch.isfinite(torch.tensor(float(log[name]))) for name in names)
    assert log["entropy"] > 0 and log["samples_per_second"] > 0


def test_a_synchronised_reference_moves_after_the_policy(gpt2_path: str, tmp_path: Path) -> None:
    trainer = make_trainer(
        "reinforce",
        gpt2_path,
        tmp_path,
        sync_ref_model=True,
        ref_model_sync_steps=1,
        ref_model_mixup_alpha=1.0,
        learning_rate=1e-2,
    )
    trainer.train()
    for name, parameter in trainer.ref_model.named_parameters():
        assert torch.allclose(parameter, trainer.model.get_parameter(name), atol=1e-6), name
