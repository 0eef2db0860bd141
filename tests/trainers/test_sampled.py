"""Log-probabilities that come with sampled tokens: in place of a pass of the policy, or to correct for the sampler."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from training import LEARNED, make_trainer, one_rollout

from lmrl.trainers import Credit, PolicyGradientTrainer, PPOConfig, ReinforceConfig, Rollout
from lmrl.trainers.engines import send_policy_to_vllm

TWICE: dict[str, Any] = {"num_iterations": 2, "beta": 0.0}  # a rollout serves two updates, and no reference is run
LORA = LoraConfig(r=4, target_modules=["c_attn"], task_type="CAUSAL_LM", init_lora_weights=False)


def passes(trainer: PolicyGradientTrainer, rows: list[int]) -> None:
    """Has a trainer append the rows of each of its scoring passes to a list."""
    forward = trainer.scorer.forward

    def counted(model: Any, rollout: Any, *args: Any) -> Any:
        rows.append(len(rollout.completion_ids))
        return forward(model, rollout, *args)

    trainer.scorer.forward = counted


@pytest.mark.parametrize("scoring_pass", ["auto", "plain"])
@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        ("reinforce", {"temperature": 0.7}),
        ("ppo", {"temperature": 0.7, "critic": "shared"}),
        ("ppo", {"critic": "least_squares"}),
        (
            "ppo",
            {"peft_config": LORA, "num_iterations": 1, "steps_per_generation": 2, "num_generations": 4}
            | LEARNED["ppo"],
        ),
    ],
)
def test_what_comes_with_the_tokens_is_what_a_pass_gives(
    algorithm: str, options: dict[str, Any], scoring_pass: str, gpt2_path: str, tmp_path: Path
) -> None:
    trainer = make_trainer(
        algorithm,
        gpt2_path,
        tmp_path,
        **{**TWICE, "per_device_train_batch_size": 10, "scoring_pass": scoring_pass, **options},
    )
    rows: list[int] = []
    passes(trainer, rows)
    for expected in ([8], []):  # the comparison, on the first rollout only
        rows.clear()
        trainer._step += 1  # past the checks of the first rollout
        rollout = one_rollout(trainer)
        assert rows == expected
    with torch.no_grad():
        scored = trainer.scorer.forward(trainer.model, rollout, trainer.has_critic)
    assert torch.allclose(rollout.old_log_probs, scored.log_probs, atol=1e-5)
    assert rollout.sampling_log_probs is None
    if trainer.has_critic and options.get("critic") != "least_squares":
        assert torch.allclose(rollout.old_values, scored.state_values, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"critic": "separate"}, {"critic": "adapter", "peft_config": LORA}, {"bf16": True}]
)
def test_where_other_states_are_read_or_the_precision_is_another_the_pass_stays(
    options: dict[str, Any], gpt2_path: str, tmp_path: Path
) -> None:
    trainer = make_trainer("ppo", gpt2_path, tmp_path, **TWICE, **options)
    rows: list[int] = []
    passes(trainer, rows)
    trainer._step = 1
    one_rollout(trainer)
    assert rows == [8] and trainer.sampled.record is None


def test_where_the_sampler_differs_the_pass_stays_with_a_line_in_the_log(
    gpt2_path: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer("reinforce", gpt2_path, tmp_path, **TWICE, disable_dropout=False, startup_checks=False)
    rows: list[int] = []
    passes(trainer, rows)
    with caplog.at_level(logging.WARNING):
        one_rollout(trainer)
        one_rollout(trainer)
    assert rows == [8, 8, 8]
    lines = [record.message for record in caplog.records if "A pass of the policy" in record.message]
    assert len(lines) == 1 and "those of the sampler differ by" in lines[0]


def test_an_architecture_that_the_sampler_leaves_to_generate_keeps_the_pass(
    tmp_path: Path, gpt2_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"generation_kwargs": {"cache_implementation": "static"}}  # no list of keys and values
    trainer = make_trainer("reinforce", gpt2_path, tmp_path, **TWICE, **options)
    with caplog.at_level(logging.WARNING):
        rollout = one_rollout(trainer)
    assert rollout.old_log_probs is not None
    assert "the sampler does not give them" in caplog.text


# -- the correction ---------------------------------------------------------------------------------------------------


class HotterEngine:
    """Samples from a policy at another temperature, with the interface of TRL's for vLLM."""

    def __init__(self, trainer: PolicyGradientTrainer, temperature: float) -> None:
        self.trainer = trainer
        self.temperature = temperature
        self.logprobs: int | None = None
        self.model = trainer.model

    def sync_weights(self) -> None:
        """Sends nothing: it has the policy itself."""

    def _iter_named_params(self) -> Any:
        return iter(())

    def generate(self, prompts: list[list[int]], images: Any, num_generations: int, profiler: Any) -> Any:
        """Returns prompts, completions of four tokens, and their log-probabilities."""
        tokens: list[list[int]] = []
        log_probs: list[list[list[float | None]]] = []
        for prompt in prompts:
            ids = torch.tensor([prompt])
            found: list[list[float | None]] = []
            for _ in range(4):
                with torch.no_grad():
                    logits = self.trainer.model(input_ids=ids).logits[0, -1] / self.temperature
                token = int(torch.multinomial(logits.softmax(-1), 1))
                found.append([float(logits.log_softmax(-1)[token])])
                ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
            tokens.append(ids[0, len(prompt) :].tolist())
            log_probs.append(found)
        assert self.logprobs == 0
        return prompts, tokens, log_probs, None


@pytest.mark.parametrize("num_iterations", [1, 2])
@pytest.mark.parametrize(("algorithm", "mode"), [("reinforce", "sequence_mask"), ("ppo", "token_truncate")])
def test_advantages_are_weighed_by_the_ratio_where_vllm_has_sampled(
    algorithm: str, mode: str, num_iterations: int, gpt2_path: str, tmp_path: Path
) -> None:
    trainer = make_trainer(
        algorithm,
        gpt2_path,
        tmp_path,
        num_iterations=num_iterations,
        max_completion_length=4,
        vllm_importance_sampling_correction=True,
        vllm_importance_sampling_mode=mode,
        **LEARNED[algorithm],
    )
    trainer.vllm_generation = HotterEngine(trainer, temperature=1.5)
    send_policy_to_vllm(trainer.vllm_generation, trainer.sampled.record)
    trainer.use_vllm = True
    trainer._last_loaded_step = 0
    before: list[torch.Tensor] = []
    after: list[torch.Tensor] = []
    credit, loss = trainer.credit, trainer.loss

    def watched_credit(rollout: Rollout) -> Credit:
        before.append(credit(rollout).advantages)
        return credit(rollout)

    def watched_loss(scored: Any, rollout: Rollout) -> torch.Tensor:
        after.append(rollout.advantages)
        return loss(scored, rollout)

    trainer.credit, trainer.loss = watched_credit, watched_loss
    rollout = one_rollout(trainer)
    trainer._compute_loss(trainer.model, rollout.to_dict())

    with torch.no_grad():
        log_probs = trainer.scorer.forward(trainer.model, rollout).log_probs
    difference = log_probs - rollout.sampling_log_probs
    if mode == "token_truncate":
        ratio = difference.exp().clamp(max=3.0)
    else:
        ratio = difference.sum(1).exp()
        ratio = ratio * (ratio <= 3.0)
    assert torch.allclose(after[0], before[0] * ratio, atol=1e-4)
    logged = trainer._metrics["train"]
    assert logged["sampling/importance_sampling_ratio/mean"][0] == pytest.approx(ratio.mean().item(), rel=1e-4)
    assert logged["sampling/importance_sampling_ratio/max"][0] == pytest.approx(ratio.max().item(), rel=1e-4)
    assert logged["sampling/sampling_logp_difference/max"][0] == pytest.approx(difference.abs().max().item(), rel=1e-4)
    assert logged["sampling/sampling_logp_difference/mean"][0] > 0.05


def test_the_correction_is_on_where_another_engine_samples_and_can_be_turned_on_and_off(
    gpt2_path: str, tmp_path: Path
) -> None:
    batching = {"use_transformers_continuous_batching": True}
    given = [({}, False), (batching, True)]
    given += [({"vllm_importance_sampling_correction": True}, True)]
    given += [({**batching, "vllm_importance_sampling_correction": False}, False)]
    for options, corrects in given:
        trainer = make_trainer("reinforce", gpt2_path, tmp_path, **options)
        assert trainer.args.corrects_for_sampler == corrects
        assert (trainer.sampled.record is not None) == corrects


def test_what_the_correction_cannot_be_is_refused(tmp_path: Path) -> None:
    own: dict[str, Any] = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False}
    with pytest.raises(ValueError, match="`vllm_importance_sampling_mode` must not be set without `vllm_importance"):
        PPOConfig(**own, vllm_importance_sampling_mode="token_mask")
    own["vllm_importance_sampling_correction"] = True
    for wrong, message in {
        "none": "`vllm_importance_sampling_mode` must be one of token_truncate, token_mask, sequence_truncate",
        "token_mask": "must be 'sequence_truncate' or 'sequence_mask' with loss_level='sequence', got 'token_mask'",
    }.items():
        with pytest.raises(ValueError, match=message):
            ReinforceConfig(**own, vllm_importance_sampling_mode=wrong)
    with pytest.raises(ValueError, match=r"`vllm_importance_sampling_clip_min` must be below .*=3, got 5"):
        PPOConfig(**own, vllm_importance_sampling_clip_min=5.0)
    with pytest.raises(ValueError, match="`vllm_importance_sampling_clip_max` must be above 0, got 0"):
        PPOConfig(**own, vllm_importance_sampling_clip_max=0.0)
