"""A trainer of one's own, of thirty lines: it trains, resumes, logs and has a card without a change in lmrl."""

import copy
import json
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from training import PROMPTS, make_trainer, share_of_letters

from lmrl import core
from lmrl.evaluation import Decoding, evaluate_model, write_card
from lmrl.models import ScoredCompletions
from lmrl.trainers import Credit, PolicyGradientConfig, PolicyGradientTrainer, ReinforceConfig, Rollout


@dataclass
class OptimalTokenConfig(PolicyGradientConfig):
    """Configuration of [`OptimalTokenTrainer`]."""

    num_generations: int | None = field(default=4, metadata={"help": "Completions per prompt, at least 2."})


class OptimalTokenTrainer(PolicyGradientTrainer):
    """REINFORCE whose baseline differs from token to token: the others of the prompt, weighted by their gradients."""

    name = "REINFORCE with an optimal token baseline"
    citation = "@article{li2026otb, title={The Optimal Token Baseline}, author={Yingru Li and others}, year={2026}}"
    reported_settings = ("num_generations", "normalize_advantages")

    def credit(self, rollout: Rollout) -> Credit:
        mask = rollout.completion_mask
        rewards = rollout.rewards - core.masked_sum(self.reference.penalty(rollout, self.beta), mask, dim=1)
        energy = ((1 - rollout.old_log_probs.exp()) ** 2 * mask).cumsum(dim=1) + 1e-6
        weights = energy.view(-1, self.completions_per_prompt, energy.shape[1])  # (P, G, T)
        weighted = weights * rewards.view(-1, self.completions_per_prompt, 1)
        others = (weighted.sum(dim=1, keepdim=True) - weighted) / (weights.sum(dim=1, keepdim=True) - weights)
        baseline = others.view_as(energy)
        self.meter.log_mean("baseline/mean", baseline, mask)
        return Credit(advantages=(rewards.unsqueeze(1) - baseline) * mask, extra={"baseline": baseline})

    def loss(self, scored: ScoredCompletions, rollout: Rollout) -> torch.Tensor:
        per_token = core.reinforce_loss(scored.log_probs, rollout.advantages)
        return core.masked_sum(per_token, rollout.completion_mask) / len(rollout.completion_mask)


def custom(model: Any, folder: Path, **overrides: Any) -> OptimalTokenTrainer:
    """Returns the trainer on rollouts of 8 completions that serve 2 updates, with a checkpoint at each step."""
    options = {"use_cpu": True, "bf16": False, "report_to": [], "disable_tqdm": True, "learning_rate": 1e-3}
    options |= {"per_device_train_batch_size": 4, "steps_per_generation": 2, "gradient_accumulation_steps": 1}
    options |= {"max_completion_length": 8, "save_strategy": "steps", "save_steps": 1, "max_steps": 3, **overrides}
    config = OptimalTokenConfig(output_dir=str(folder), **options)
    return OptimalTokenTrainer(model, share_of_letters, config, [{"prompt": prompt} for prompt in PROMPTS])


def test_a_trainer_of_ones_own_trains_and_logs(gpt2_path: str, tmp_path: Path) -> None:
    trainer = custom(Path(gpt2_path), tmp_path)
    before = [parameter.clone() for parameter in trainer.model.parameters()]
    trainer.train()
    assert any(not torch.equal(old, new) for old, new in zip(before, trainer.model.parameters(), strict=True))
    first = trainer.state.log_history[0]
    assert first["kl_per_sequence"] == pytest.approx(0, abs=1e-5)
    assert 0 < first["baseline/mean"] < 1 and first["grad_norm"] > 0


def test_resumed_within_a_rollout_it_is_the_straight_run(gpt2_path: str, tmp_path: Path) -> None:
    straight = custom(gpt2_path, tmp_path)
    straight.train()
    torch.manual_seed(1)
    resumed = custom(gpt2_path, tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    for (name, old), new in zip(straight.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(old, new), name
    assert resumed.run_state_dict() == straight.run_state_dict()


def test_its_card_has_its_facts(gpt2_path: str, tmp_path: Path) -> None:
    trainer = custom(gpt2_path, tmp_path, max_steps=1)
    rows = [{"prompt": prompt, "references": ["a b"]} for prompt in PROMPTS[:4]]
    measured = {}
    for label in ("before", "after"):
        with trainer.gathered_policy() as policy:
            decoding = Decoding(max_new_tokens=6)
            measured[label] = evaluate_model(policy, trainer.processing_class, rows, decoding, progress=False)
        if label == "before":
            trainer.train()
    card = write_card(
        tmp_path,
        measured,
        rows,
        algorithm=trainer.name,
        citation=trainer.citation,
        settings={name: getattr(trainer.args, name) for name in trainer.reported_settings},
        logs={"after": trainer.state.log_history},
        rewarded=trainer.reward_func_names,
        config=trainer.args.to_dict(),
        start="a tiny GPT-2",
        weights="all weights",
    )
    assert "REINFORCE with an optimal token baseline: `num_generations=4`" in card
    assert "The Optimal Token Baseline" in card


@pytest.mark.parametrize("algorithm", ["reinforce", "ppo"])
def test_the_configuration_that_is_given_is_never_changed(algorithm: str, gpt2_path: str, tmp_path: Path) -> None:
    given: list[Any] = []

    def note(config: Any) -> None:
        given.extend([config, copy.deepcopy(config)])

    options = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    trainer = make_trainer(
        algorithm, gpt2_path, tmp_path, sync_ref_model=True, kl_target=0.5, on_config=note, **options
    )
    config, before = given
    assert config.beta == 0.05 and config.sync_ref_model and config.num_generations == 2
    trainer.train()
    trainer.args.beta = 9.0
    trainer.args.gradient_checkpointing_kwargs["use_reentrant"] = True
    assert config == before
    assert config.gradient_checkpointing_kwargs == {"use_reentrant": False}


def test_a_baseline_may_be_a_function(gpt2_path: str, tmp_path: Path) -> None:
    seen: list[tuple[list[int], int]] = []

    def lowest(rewards: torch.Tensor, num_generations: int) -> torch.Tensor:
        """Returns the least reward of each prompt."""
        seen.append((list(rewards.shape), num_generations))
        return rewards.view(-1, num_generations).amin(dim=1, keepdim=True).expand(-1, num_generations).flatten()

    trainer = make_trainer("reinforce", gpt2_path, tmp_path, baseline=lowest, beta=0.0)
    trainer.train()
    assert seen == [([8], 2)] * 2
    assert trainer.state.log_history[0]["advantages/mean"] > 0  # none is below 0
    trainer.save_model()
    assert torch.load(tmp_path / "training_args.bin", weights_only=False).baseline == "lowest"


def test_rows_may_be_a_list_and_the_rows_that_are_held_out_too(gpt2_path: str, tmp_path: Path) -> None:
    rows = [{"prompt": prompt} for prompt in PROMPTS]
    trainer = make_trainer("reinforce", gpt2_path, tmp_path, train_dataset=rows, eval_dataset=rows[:2])
    assert isinstance(trainer.train_dataset, Dataset) and len(trainer.train_dataset) == 8
    assert 0 <= trainer.evaluate()["eval_reward"] <= 1


def test_a_configuration_with_a_function_is_copied_pickled_and_written_as_json(tmp_path: Path) -> None:
    def local(rewards: torch.Tensor, num_generations: int) -> torch.Tensor:
        return torch.zeros_like(rewards)

    config = ReinforceConfig(str(tmp_path), baseline=local, use_cpu=True)
    assert copy.copy(config).baseline is local
    assert copy.deepcopy(config).baseline is local
    assert json.loads(config.to_json_string())["baseline"] == "local"
    assert pickle.loads(pickle.dumps(config)).baseline == "local"  # no other process could find it
    public = ReinforceConfig(str(tmp_path), baseline=core.batch_mean, use_cpu=True)
    assert pickle.loads(pickle.dumps(public)).baseline is core.batch_mean


def test_a_trainer_with_one_penalty_refuses_that_of_tokens_alone(gpt2_path: str, tmp_path: Path) -> None:
    trainer = custom(gpt2_path, tmp_path, kl_scope="token")
    with pytest.raises(ValueError, match="`kl_scope` must be 'completion' with this trainer, got 'token'"):
        trainer.train()
