"""RATIO: before any step, the policy that is trained is the one that was sampled and the one that is the reference."""

from pathlib import Path

import pytest
import torch
from training import ALGORITHMS, PASSES, make_trainer, one_rollout

from lmrl.critics import get_critic
from lmrl.models import ScoredCompletions
from lmrl.trainers.rollout import Rollout


@pytest.mark.parametrize("scoring_pass", PASSES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("model", ["gpt2_path", "llama_path"])
def test_without_a_step_ratio_is_one_and_kl_zero(
    model: str,
    algorithm: str,
    temperature: float,
    scoring_pass: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    options = {"num_iterations": 2, "temperature": temperature, "scoring_pass": scoring_pass}
    trainer = make_trainer(algorithm, request.getfixturevalue(model), tmp_path, **options)
    rollout = one_rollout(trainer)
    again = trainer.scorer.forward(trainer.model, rollout).log_probs
    assert (again - rollout.old_log_probs).abs().max() <= 1e-5
    assert (rollout.ref_log_probs - rollout.old_log_probs).abs().max() <= 1e-5
    assert trainer._metrics["train"]["kl"] == [pytest.approx(0, abs=1e-5)]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_first_update_logs_no_clipping_and_no_kl(algorithm: str, gpt2_path: str, tmp_path: Path) -> None:
    trainer = make_trainer(algorithm, gpt2_path, tmp_path, num_iterations=2, max_steps=2)
    trainer.train()
    first, second = trainer.state.log_history[:2]
    assert first["clip_ratio/region_mean"] == 0
    assert first["kl_per_sequence"] == pytest.approx(0, abs=1e-5)
    if algorithm == "ppo":  # the second epoch is on the same rollout, and the policy has moved
        assert first["policy/approx_kl"] == pytest.approx(0, abs=1e-6)
        assert second["policy/approx_kl"] > 1e-6


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_dropout_left_on_is_refused(algorithm: str, gpt2_path: str, tmp_path: Path) -> None:
    trainer = make_trainer(algorithm, gpt2_path, tmp_path, disable_dropout=False)
    with pytest.raises(ValueError, match="leave disable_dropout=True"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_a_reference_that_is_another_model_is_refused(gpt2_path: str, tmp_path: Path) -> None:
    trainer = make_trainer("reinforce", gpt2_path, tmp_path)
    with torch.no_grad():
        trainer.ref_model.transformer.wte.weight.mul_(1.5)
    with pytest.raises(ValueError, match="KL does not start at 0"):
        trainer.train()


def test_rounding_that_depends_on_the_batch_is_no_other_reference(
    gpt2_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer("reinforce", gpt2_path, tmp_path, bf16=True, per_device_train_batch_size=16)
    exact = trainer.scorer.forward

    def rounded(model: object, rollout: Rollout, *args: object, **kwargs: object) -> ScoredCompletions:
        scored = exact(model, rollout, *args, **kwargs)
        if len(rollout.completion_ids) > 8:  # as with SmolLM2, whose batches of 8 and of 64 differ by 0.024
            scored.log_probs = scored.log_probs - 0.03 * rollout.completion_mask
        return scored

    monkeypatch.setattr(trainer.scorer, "forward", rounded)
    trainer.train()
    assert trainer.state.global_step == trainer.state.max_steps > 0


def test_without_a_kl_penalty_no_reference_is_made_or_run(gpt2_path: str, tmp_path: Path) -> None:
    trainer = make_trainer("ppo", gpt2_path, tmp_path, beta=0.0)
    trainer.train()
    assert trainer.ref_model is None
    assert "kl_per_sequence" not in trainer.state.log_history[0]


def test_stored_log_probabilities_and_values_carry_no_gradient(gpt2_path: str, tmp_path: Path) -> None:
    rollout = one_rollout(make_trainer("ppo", gpt2_path, tmp_path, num_iterations=2))
    assert not any(tensor.requires_grad for tensor in rollout.to_dict().values())


def test_a_fresh_critic_starts_at_the_mean_reward(gpt2_path: str, tmp_path: Path) -> None:
    trainer = make_trainer("ppo", gpt2_path, tmp_path, num_iterations=2, critic="shared")
    rollout = one_rollout(trainer)
    mask = rollout.completion_mask.bool()
    assert torch.allclose(rollout.old_values[mask], rollout.rewards.mean())
    assert get_critic(trainer.model).start.item() == pytest.approx(rollout.rewards.mean().item())


@pytest.mark.parametrize("num_iterations", [1, 2])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_in_bfloat16_ratio_and_kl_start_right_and_the_weights_stay_float32(
    algorithm: str, num_iterations: int, gpt2_path: str, tmp_path: Path
) -> None:
    trainer = make_trainer(algorithm, gpt2_path, tmp_path, bf16=True, num_iterations=num_iterations)
    drawn_in = []
    generate = trainer._base_model.generate

    def watched(*args: object, **kwargs: object) -> object:
        drawn_in.append(trainer._base_model.transformer.wte.weight.dtype)
        return generate(*args, **kwargs)

    trainer._base_model.generate = watched
    trainer.train()
    first = trainer.state.log_history[0]
    assert drawn_in[0] == torch.bfloat16
    assert first["kl_per_sequence"] == pytest.approx(0, abs=1e-6)  # policy and reference by the same pass
    assert first["clip_ratio/region_mean"] == 0
    assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())
