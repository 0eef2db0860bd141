"""BANDIT, GEN and ENUM: the trainers learn, from the policy that they sample, by the exact gradient."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from training import loss_of, make_trainer, share_of_a

from lmrl.trainers import Rollout

BASELINES = ["none", "batch_mean", "leave_one_out", "shrinkage", "moving_average", "greedy"]


def _bandit(algorithm: str, gpt2_path: str, folder: Path, **overrides: Any) -> tuple[float, float]:
    trainer = make_trainer(
        algorithm,
        gpt2_path,
        folder,
        reward=share_of_a,
        **{"max_steps": 40, "learning_rate": 1e-2, "per_device_train_batch_size": 32, "beta": 0.0, **overrides},
    )
    trainer.train()
    rewards = [log["reward"] for log in trainer.state.log_history if "reward" in log]
    return rewards[0], sum(rewards[-3:]) / 3


@pytest.mark.parametrize("baseline", BASELINES)
def test_reinforce_learns_a_bandit(baseline: str, gpt2_path: str, tmp_path: Path) -> None:
    overrides = {"num_generations": 4 if baseline == "leave_one_out" else 1, "startup_checks": False}
    dataset = Dataset.from_list([{"prompt": letter} for letter in "abcdefghijklmnopqrstuvwxyz0123456789"])
    first, last = _bandit("reinforce", gpt2_path, tmp_path, baseline=baseline, train_dataset=dataset, **overrides)
    assert first < 0.2 and last > first + 0.4, (first, last)


@pytest.mark.parametrize("critic", ["shared", "separate", "least_squares"])
def test_ppo_learns_a_bandit(critic: str, gpt2_path: str, tmp_path: Path) -> None:
    first, last = _bandit("ppo", gpt2_path, tmp_path, critic=critic, num_iterations=2, num_generations=4)
    assert first < 0.2 and last > first + 0.4, (first, last)


def test_lora_learns_a_bandit(gpt2_path: str, tmp_path: Path) -> None:
    from peft import LoraConfig

    lora = LoraConfig(r=8, target_modules=["c_attn", "c_fc", "c_proj"], task_type="CAUSAL_LM")
    first, last = _bandit("ppo", gpt2_path, tmp_path, peft_config=lora, learning_rate=2e-2, num_generations=4)
    assert last > first + 0.3, (first, last)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_tokens_are_drawn_with_the_probabilities_that_are_stored(
    temperature: float, gpt2_path: str, tmp_path: Path
) -> None:
    prompts = Dataset.from_list([{"prompt": "a b c"}] * 2000)
    trainer = make_trainer(
        "reinforce",
        gpt2_path,
        tmp_path,
        temperature=temperature,
        num_iterations=2,
        max_completion_length=1,
        per_device_train_batch_size=2000,
        train_dataset=prompts,
        startup_checks=False,
    )
    counts, log_probs = torch.zeros(64), torch.full((64,), float("nan"))
    for _ in range(10):
        rollout = Rollout.from_dict(trainer._generate_and_score_completions([{"prompt": "a b c"}] * 2000))
        tokens = rollout.completion_ids[:, 0]
        counts += torch.bincount(tokens, minlength=64)
        log_probs[tokens] = rollout.old_log_probs[:, 0]
    expected = log_probs.exp().nan_to_num(0.0) * counts.sum()
    seen = expected > 5
    chi_square = ((counts - expected)[seen] ** 2 / expected[seen]).sum().item()
    degrees = int(seen.sum()) - 1
    assert degrees > 20
    assert chi_square < degrees + 4 * (2 * degrees) ** 0.5, (chi_square, degrees)


def test_greedy_completions_are_greedy_and_sampled_ones_are_not(gpt2_path: str, tmp_path: Path) -> None:
    trainer = make_trainer("reinforce", gpt2_path, tmp_path, baseline="greedy", num_generations=1)
    drawn: list[list[list[int]]] = []
    generate = trainer._generate_single_turn
    trainer._generate_single_turn = lambda *args: drawn.append(generate(*args)) or drawn[-1]
    rows = [{"prompt": "a b c"}] * 4
    trainer._generate_and_score_completions(rows)
    sampled, greedy = drawn
    own = (
        trainer.model.eval()
        .generate(torch.tensor([trainer._tokenizer("a b c")["input_ids"]]), do_sample=False, max_new_tokens=8)[0, 3:]
        .tolist()
    )
    assert greedy == [own] * 4
    assert len({tuple(row) for row in sampled}) > 1


@pytest.mark.parametrize(
    ("algorithm", "extra"),
    [
        ("reinforce", {"baseline": "none"}),
        ("reinforce", {"baseline": "critic"}),
        ("reinforce", {"baseline": "none", "loss_level": "token", "loss_type": "grpo"}),
        ("reinforce", {"baseline": "moving_average", "loss_level": "token", "loss_type": "dr_grpo"}),
        ("reinforce", {"baseline": "none", "loss_level": "token", "kl_estimator": "exact"}),
        ("reinforce", {"baseline": "none", "loss_level": "token", "kl_scope": "token"}),
        ("reinforce", {"baseline": "none", "loss_level": "token", "kl_scope": "token", "kl_estimator": "exact"}),
        ("ppo", {"normalize_advantages": False, "lam": 1.0, "critic": "shared", "vf_coef": 0.0}),
        ("ppo", {"normalize_advantages": False, "lam": 1.0, "critic": "least_squares", "kl_estimator": "exact"}),
        ("ppo", {"normalize_advantages": False, "lam": 1.0, "critic": "least_squares", "kl_scope": "token"}),
        ("ppo", {"normalize_advantages": False, "lam": 1.0, "kl_scope": "token", "kl_estimator": "exact"}),
    ],
)
def test_the_expected_gradient_of_the_trainer_is_the_exact_one(
    algorithm: str, extra: dict[str, Any], gpt2_path: str, tmp_path: Path
) -> None:
    trainer = make_trainer(algorithm, gpt2_path, tmp_path, num_iterations=2, num_generations=1, beta=0.3, **extra)
    estimated, exact = _gradients_of_all_pairs(trainer)
    assert exact.abs().max() > 1e-3
    assert torch.allclose(estimated, exact, atol=1e-4, rtol=1e-2), (estimated - exact).abs().max()


@pytest.mark.parametrize(
    ("algorithm", "extra"),
    [
        ("reinforce", {"baseline": "none"}),
        ("ppo", {"normalize_advantages": False, "lam": 1.0, "critic": "shared", "vf_coef": 0.0}),
    ],
)
def test_the_expected_gradient_is_exact_when_another_policy_has_sampled_and_is_corrected_for(
    algorithm: str, extra: dict[str, Any], gpt2_path: str, tmp_path: Path
) -> None:
    unbounded = {"vllm_importance_sampling_clip_max": None}
    options = {"num_iterations": 2, "num_generations": 1, "beta": 0.3, **unbounded, **extra}
    trainer = make_trainer(algorithm, gpt2_path, tmp_path, **options)
    estimated, exact = _gradients_of_all_pairs(trainer, sampler=trainer.ref_model)
    assert torch.allclose(estimated, exact, atol=1e-4, rtol=1e-2), (estimated - exact).abs().max()
    ratio = trainer._metrics["train"]["sampling/importance_sampling_ratio/max"]
    assert ratio[0] > 1.1  # the policies differ
    uncorrected, exact = _gradients_of_all_pairs(trainer, sampler=trainer.ref_model, corrected=False, moved=False)
    assert (uncorrected - exact).abs().max() > 10 * (estimated - exact).abs().max()
    assert not torch.allclose(uncorrected, exact, atol=1e-4, rtol=1e-2)


def _gradients_of_all_pairs(
    trainer: Any, sampler: Any = None, corrected: bool = True, moved: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Returns the gradient of the loss over every completion of two tokens, weighted by its probability under the policy
    or under another sampler, and that of E[r - beta KL], the texts before a token held fixed in its KL if that is the
    scope of the penalty.
    """
    with torch.no_grad():  # a policy that is not its reference any more
        shift = 0.05 * torch.randn_like(trainer.model.transformer.wte.weight)
        trainer.model.transformer.wte.weight.add_(shift * moved)
    prompt = torch.tensor([[6, 7, 8]])
    pairs = torch.tensor(list(itertools.product(range(64), repeat=2)))
    rewards = torch.sin(pairs[:, 0] * 1.3 + pairs[:, 1] * 0.7)
    rollout = Rollout(
        prompt_ids=prompt.expand(len(pairs), -1),
        prompt_mask=torch.ones(len(pairs), 3, dtype=torch.long),
        completion_ids=pairs,
        completion_mask=torch.ones_like(pairs),
        rewards=rewards,
        mean_length=torch.full((len(pairs),), 2.0),
    )
    with torch.no_grad():
        old = trainer.scorer.forward(trainer.model, rollout, trainer.has_critic)
        reference = trainer.scorer.forward(trainer.ref_model, rollout)
    rollout = trainer.scorer.score(rollout.with_policy_pass(old), trainer.model, trainer.reference, True, False)
    assert torch.allclose(rollout.ref_log_probs, reference.log_probs, atol=1e-6)
    if rollout.exact_kl is not None:
        _check_exact_kl(trainer, rollout)
    trainer._metrics["train"]["kl"].append(0.0)
    if getattr(trainer, "fitted", None) is not None:  # values that another rollout was fitted to
        trainer.credit(replace(rollout, rewards=rewards.flip(0) + 2))
    with torch.no_grad():
        drawn = old if sampler is None else trainer.scorer.forward(sampler, rollout)
    if sampler is not None and corrected:
        rollout = replace(rollout, sampling_log_probs=drawn.log_probs)
    rollout = trainer._with_credit(rollout)
    probs = drawn.log_probs.sum(1).exp()
    # The loss is a mean over rows: weigh row i by B * p_i through its advantage.
    weight = probs * len(pairs)
    of_tokens = getattr(trainer.args, "loss_level", None) == "token"
    shape = (-1,) if rollout.advantages.dim() == 1 else (-1, 1)
    trainer.model.zero_grad()
    loss_of(trainer, replace(rollout, advantages=rollout.advantages * weight.view(shape))).backward()
    # PPO averages over tokens, two to a completion, and so may REINFORCE, or over a constant number.
    scale = {"dapo": 2.0, "grpo": 2.0, "dr_grpo": 8.0}[trainer.args.loss_type] if of_tokens else 1.0
    scale = 2.0 if trainer.name == "PPO" else scale
    estimated = -trainer.model.transformer.h[0].mlp.c_fc.weight.grad.clone() * scale
    trainer.model.zero_grad()
    new = trainer.scorer.forward(trainer.model, rollout).log_probs
    text = new.sum(1)
    if trainer.args.kl_scope == "token":  # where a token comes from, and what may follow, has no gradient
        divergence = (new.exp() * new.flip(1).exp().detach() * (new - reference.log_probs)).sum()
        ((text.exp() * rewards).sum() - 0.3 * divergence).backward()
    else:
        (text.exp() * (rewards - 0.3 * (text - reference.log_probs.sum(1)))).sum().backward()
    return estimated, trainer.model.transformer.h[0].mlp.c_fc.weight.grad.clone()


@torch.no_grad()
def _check_exact_kl(trainer: Any, rollout: Rollout) -> None:
    """The KL is that of the complete distributions; its sum over a completion has the mean of k1, and less spread."""
    ids = rollout.input_ids[::64]
    logits = [model(input_ids=ids).logits[:, 2:4].log_softmax(-1) for model in (trainer.model, trainer.ref_model)]
    expected = (logits[0].exp() * (logits[0] - logits[1])).sum(-1)
    assert torch.allclose(rollout.exact_kl[::64], expected, atol=1e-5)
    probs = rollout.old_log_probs.sum(1).exp()
    k1 = (rollout.old_log_probs - rollout.ref_log_probs).sum(1)
    exact = rollout.exact_kl.sum(1)
    mean = (probs * k1).sum()
    assert (probs * exact).sum().item() == pytest.approx(mean.item(), rel=1e-3)
    assert (probs * (exact - mean) ** 2).sum() < 0.5 * (probs * (k1 - mean) ** 2).sum()
    if trainer.args.kl_scope == "token":  # k1 and what it has above its mean differ by nothing that it goes with
        k1 = rollout.old_log_probs - rollout.ref_log_probs
        squares = [(probs.unsqueeze(1) * of_tokens**2).sum().item() for of_tokens in (k1, rollout.exact_kl)]
        least = (probs.unsqueeze(1) * (k1 - rollout.exact_kl) ** 2).sum().item()
        assert least == pytest.approx(squares[0] - squares[1], rel=1e-2)
