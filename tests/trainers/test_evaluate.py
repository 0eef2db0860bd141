"""Trainer's own evaluate, the moving reference, and the figures that every step logs."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from training import ALGORITHMS, LEARNED, make_trainer
from transformers import EarlyStoppingCallback

from lmrl.evaluation import Decoding, evaluate_model
from lmrl.trainers import PolicyGradientTrainer

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


EVALUATED = {"eval_strategy": "steps", "eval_steps": 1, "logging_steps": 1, "eval_dataset": HELD_OUT}
KEEPS_BEST = {"load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 1}


def parameters_of(trainer: PolicyGradientTrainer) -> dict[str, torch.Tensor]:
    """Returns a copy of the parameters, the critic's too."""
    return {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}


def figures_of(trainer: PolicyGradientTrainer) -> list[dict[str, float]]:
    """Returns what was logged of each step of training, but times."""
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    return [
        {name: value for name, value in entry.items() if "time" not in name and "_per_second" not in name}
        for entry in logged
    ]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_best_checkpoint_by_a_held_out_metric_is_loaded_and_training_stops_early(
    algorithm: str, gpt2_path: str, tmp_path: Path
) -> None:
    """The metric rises at the second step and falls from there on: patience 2 stops after the fourth of six steps."""
    bleu, seen = iter([10.0, 30.0, 20.0, 5.0, 99.0, 99.0]), []

    def held_out(policy: torch.nn.Module) -> dict[str, float]:
        seen.append(parameters_of(trainer))
        assert policy is trainer.model and not policy.training
        return {"bleu": next(bleu), "reward/length": 1.0}

    trainer = make_trainer(
        algorithm,
        gpt2_path,
        tmp_path,
        held_out_metrics=held_out,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
        metric_for_best_model="bleu",
        max_steps=6,
        **EVALUATED,
        **KEEPS_BEST,
    )
    trainer.train()
    assert trainer.state.global_step == 4 and trainer.state.best_metric == 30.0
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-2")
    log = [entry for entry in trainer.state.log_history if "eval_bleu" in entry]
    assert [(entry["step"], entry["eval_bleu"]) for entry in log] == [(1, 10.0), (2, 30.0), (3, 20.0), (4, 5.0)]
    timing = {"eval_runtime", "eval_samples_per_second", "eval_steps_per_second"}
    assert all(entry.keys() == {"eval_bleu", "eval_reward/length", "step", "epoch"} | timing for entry in log)
    at_the_end = parameters_of(trainer)
    assert at_the_end.keys() == seen[1].keys()
    assert all(torch.equal(value, seen[1][name]) for name, value in at_the_end.items())
    assert any(not torch.equal(value, seen[3][name]) for name, value in at_the_end.items())


def test_all_held_out_rows_count_alike_in_a_smaller_last_batch(gpt2_path: str, tmp_path: Path) -> None:
    def of_prompt(prompts: list[str], **_: object) -> list[float | None]:
        return [{"a b c": 1.0, "d": 2.0, "e f": 6.0, "g": None}[prompt] for prompt in prompts]

    sizes = {"num_generations_eval": 1, "per_device_eval_batch_size": 2}
    trainer = make_trainer("reinforce", gpt2_path, tmp_path, of_prompt, eval_dataset=HELD_OUT, **sizes)
    trainer.predict(HELD_OUT)
    scores = trainer.evaluate()
    assert scores["eval_reward"] == scores["eval_rewards/of_prompt/mean"] == 3.0
    assert not [name for name in scores if name.startswith("eval_test")]
    rows = Dataset.from_list([{"prompt": prompt} for prompt in ("a b c", "g", "d", "e f")])
    assert trainer.evaluate(rows)["eval_reward"] == 3.0


def test_an_evaluation_without_the_metric_chooses_no_checkpoint(gpt2_path: str, tmp_path: Path) -> None:
    score = iter([None, 2.0, float("nan")])
    trainer = make_trainer(
        "reinforce",
        gpt2_path,
        tmp_path,
        held_out_metrics=lambda policy: {"score": next(score)},
        metric_for_best_model="score",
        max_steps=3,
        **EVALUATED,
        **KEEPS_BEST,
    )
    trainer.train()
    assert (trainer.state.best_metric, trainer.state.best_global_step) == (2.0, 2)


@pytest.mark.parametrize("by", ["held_out_metrics", "rewards"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_measured_on_the_way_changes_nothing(algorithm: str, by: str, gpt2_path: str, tmp_path: Path) -> None:
    def measured(policy: torch.nn.Module) -> dict[str, float]:
        rows = [{**row, "references": ["a b"]} for row in HELD_OUT]
        decoding = Decoding(max_new_tokens=6, do_sample=True, num_samples=2)
        return evaluate_model(policy, trainer.processing_class, rows, decoding, progress=False).values

    common = {"max_steps": 3, "num_iterations": 2, "logging_steps": 1}
    trainer = make_trainer(algorithm, gpt2_path, tmp_path / "plain", **common)
    trainer.train()
    plain, figures = parameters_of(trainer), figures_of(trainer)
    on_the_way = {"eval_on_start": True, **EVALUATED}
    if by == "held_out_metrics":
        on_the_way["held_out_metrics"] = measured
    trainer = make_trainer(algorithm, gpt2_path, tmp_path / "on", **common | on_the_way)
    trainer.train()
    name = "eval_bleu" if by == "held_out_metrics" else "eval_reward"
    assert len([entry for entry in trainer.state.log_history if name in entry]) == 4
    assert all(torch.equal(value, plain[name]) for name, value in parameters_of(trainer).items())
    assert figures_of(trainer) == figures and len(figures) == 3


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_figure_is_logged_and_finite(algorithm: str, gpt2_path: str, tmp_path: Path) -> None:
    trainer = make_trainer(algorithm, gpt2_path, tmp_path, num_iterations=2, num_generations=2, **LEARNED[algorithm])
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
