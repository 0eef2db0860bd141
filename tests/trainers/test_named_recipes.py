"""The recipes that docs/choosing.md names: loss and gradient are those of the papers' equations, written out here."""

import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import torch
from torch import Tensor
from training import make_trainer
from transformers import HfArgumentParser

from lmrl.models import ScoredCompletions
from lmrl.trainers import ReinforceConfig, Rollout

PAGE = (Path(__file__).parents[2] / "docs" / "choosing.md").read_text(encoding="utf-8")
NAMED = dict(re.findall(r"^\| ([\w. +]+) \(.*?\) \| `(--baseline [^`]+)` \|", PAGE, flags=re.MULTILINE))

GROUPS = [(0, 1, 2), (3, 4, 5), (6, 7, 8)]
REWARDS = [0.1, 0.9, 0.4, 0.7, 0.7, 0.7, 0.0, 0.3, 1.0]  # the second prompt teaches nothing
LENGTHS = [3, 1, 2, 4, 2, 3, 1, 4, 2]
OLD, REF, NEW = (torch.randn(9, 4, generator=torch.Generator().manual_seed(seed)) * 0.3 - 2 for seed in range(3))
BETA = 0.2
LONGEST = 8  # max_completion_length
TOKENS = [(i, t) for i, length in enumerate(LENGTHS) for t in range(length)]


def k1(i: int, start: int = 0) -> float:
    """Returns the KL estimate of a completion from a token on."""
    return sum((OLD[i, t] - REF[i, t]).item() for t in range(start, LENGTHS[i]))


def others(i: int, values: list[float]) -> list[float]:
    """Returns the values of the other completions of the prompt."""
    return [values[j] for group in GROUPS if i in group for j in group if j != i]


def clip(ratio: Tensor, advantage: float, high: float = 0.2) -> Tensor:
    """Returns the surrogate of PPO."""
    return torch.minimum(ratio * advantage, ratio.clamp(0.8, 1 + high) * advantage)


def group_advantage(i: int) -> float:
    """Returns the reward less the mean of its group."""
    return REWARDS[i] - fmean([REWARDS[i], *others(i, REWARDS)])


def grpo_advantage(i: int) -> float:
    """Returns that by the standard deviation of the group; 0 in a group of equal rewards."""
    group = [REWARDS[i], *others(i, REWARDS)]
    return group_advantage(i) / stdev(group) if stdev(group) > 0 else 0.0


def rloo(new: Tensor) -> Tensor:
    """Returns the loss of RLOO, whose ratio is that of a completion."""
    totals = [reward - BETA * k1(i) for i, reward in enumerate(REWARDS)]
    terms = []
    for i, length in enumerate(LENGTHS):
        ratio = (new[i, :length] - OLD[i, :length]).sum().exp()
        terms.append(clip(ratio, totals[i] - fmean(others(i, totals))))
    return -torch.stack(terms).mean()


def grpo(new: Tensor) -> Tensor:
    """Returns equation 3 of GRPO without its KL."""
    means = []
    for i, length in enumerate(LENGTHS):
        ratio = (new[i, :length] - OLD[i, :length]).exp()
        means.append(clip(ratio, grpo_advantage(i)).mean())
    return -torch.stack(means).mean()


def dr_grpo(new: Tensor) -> Tensor:
    """Returns the loss of Dr. GRPO: no standard deviation, no mean over a completion."""
    terms = [clip((new[i, t] - OLD[i, t]).exp(), group_advantage(i)) for i, t in TOKENS]
    return -torch.stack(terms).sum() / (9 * LONGEST)


def dapo(new: Tensor) -> Tensor:
    """Returns the loss of DAPO over the tokens of prompts whose rewards differ."""
    kept = [(i, t) for i, t in TOKENS if i not in GROUPS[1]]
    return -torch.stack([clip((new[i, t] - OLD[i, t]).exp(), grpo_advantage(i), 0.28) for i, t in kept]).mean()


def whitened(new: Tensor, advantages: list[float]) -> Tensor:
    """Returns the loss of REINFORCE++ with advantages of all tokens, which are whitened over the batch."""
    mean, deviation = fmean(advantages), stdev(advantages)
    terms = [
        clip((new[i, t] - OLD[i, t]).exp(), (advantage - mean) / deviation)
        for (i, t), advantage in zip(TOKENS, advantages, strict=True)
    ]
    return -torch.stack(terms).mean()


def reinforce_plus_plus(new: Tensor) -> Tensor:
    """Returns that with the KL from each token on."""
    return whitened(new, [REWARDS[i] - BETA * k1(i, t) for i, t in TOKENS])


def reinforce_plus_plus_baseline(new: Tensor) -> Tensor:
    """Returns that with the mean of the group as the baseline, without its KL in the loss."""
    return whitened(new, [group_advantage(i) for i, _ in TOKENS])


LOSSES: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "RLOO": (rloo, BETA),
    "GRPO": (grpo, 0.0),
    "Dr. GRPO": (dr_grpo, 0.0),
    "DAPO": (dapo, 0.0),
    "REINFORCE++": (reinforce_plus_plus, BETA),
    "REINFORCE++ with baseline": (reinforce_plus_plus_baseline, 0.0),
}


def rollout_of(beta: float) -> Rollout:
    """Returns the completions, with a reference if there is a penalty."""
    mask = torch.arange(4) < torch.tensor(LENGTHS).unsqueeze(1)
    return Rollout(
        prompt_ids=torch.ones(9, 1, dtype=torch.long),
        prompt_mask=torch.ones(9, 1, dtype=torch.long),
        completion_ids=torch.full((9, 4), 7),
        completion_mask=mask.long(),
        rewards=torch.tensor(REWARDS),
        mean_length=torch.full((9,), sum(LENGTHS) / 9),
        lengths=torch.tensor(LENGTHS),
        old_log_probs=OLD * mask,
        ref_log_probs=REF * mask if beta else None,
    )


def half_below(rewards: Tensor, num_generations: int) -> Tensor:
    """Returns a baseline that is below equal rewards too."""
    return rewards - 0.5


def test_every_named_recipe_is_tested() -> None:
    assert set(NAMED) == set(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_a_named_recipe_has_the_loss_and_the_gradient_of_its_paper(name: str, gpt2_path: str, tmp_path: Path) -> None:
    expected, beta = LOSSES[name]
    (given,) = HfArgumentParser(ReinforceConfig).parse_args_into_dataclasses(
        [*shlex.split(NAMED[name]), *f"--output_dir {tmp_path} --num_generations 3 --generation_batch_size 24".split()]
    )
    names = [word.removeprefix("--") for word in shlex.split(NAMED[name]) if word.startswith("--")]
    settings: dict[str, Any] = {field: getattr(given, field) for field in names} | {"beta": beta}
    trainer = make_trainer(
        *("reinforce", gpt2_path, tmp_path),
        **{"num_generations": 3, "per_device_train_batch_size": 9, "num_iterations": 2, **settings},
    )
    assert trainer.args.max_completion_length == LONGEST
    rollout = rollout_of(beta)
    rollout = rollout.with_credit(trainer.credit(rollout))

    closed = NEW.clone().requires_grad_()
    loss = expected(closed)
    loss.backward()
    new = NEW.clone().requires_grad_()
    scored = ScoredCompletions(log_probs=new * rollout.completion_mask, entropy=torch.zeros(9, 4))
    found = trainer.loss(scored, rollout)
    found.backward()
    assert found.item() == pytest.approx(loss.item(), rel=1e-4)
    assert new.grad is not None and closed.grad is not None
    assert torch.allclose(new.grad, closed.grad, rtol=1e-4, atol=1e-7)
    assert closed.grad.abs().max() > 1e-3

    parts = NEW.clone().requires_grad_()  # the same, from three micro-batches
    scored = ScoredCompletions(log_probs=parts * rollout.completion_mask, entropy=torch.zeros(9, 4))
    for start in range(0, 9, 3):
        rows = slice(start, start + 3)
        part = ScoredCompletions(log_probs=scored.log_probs[rows], entropy=scored.entropy[rows])
        (trainer.loss(part, rollout.map(lambda tensor, rows=rows: tensor[rows])) / 3).backward(retain_graph=True)
    assert parts.grad is not None and torch.allclose(parts.grad, new.grad, atol=1e-7)


def test_equal_groups_are_left_out_to_a_tolerance_and_by_the_reward_before_its_penalty(
    gpt2_path: str, tmp_path: Path
) -> None:
    options = {"drop_equal_groups": True, "num_generations": 3, "per_device_train_batch_size": 9, "beta": BETA}
    rollout = rollout_of(BETA)
    found = {}
    for tolerance in (1e-6, 0.9, 2.0):
        trainer = make_trainer("reinforce", gpt2_path, tmp_path, equal_groups_tolerance=tolerance, **options)
        found[tolerance] = trainer.credit(rollout).advantages.view(3, 3)
        share = trainer.meter.values["train"]["dropped_groups"]
        assert share == pytest.approx([{1e-6: 1 / 3, 0.9: 2 / 3, 2.0: 1.0}[tolerance]])
    everyone = make_trainer("reinforce", gpt2_path, tmp_path, **(options | {"drop_equal_groups": False}))
    plain = everyone.credit(replace(rollout)).advantages.view(3, 3)
    # the penalty differs where the rewards do not
    assert plain[1].abs().max() > 0.01 and found[1e-6][1].abs().max() == 0
    assert torch.allclose(found[1e-6][[0, 2]], plain[[0, 2]] * 9 / 6)
    assert torch.allclose(found[0.9][2], plain[2] * 9 / 3) and found[0.9][:2].abs().max() == 0
    assert found[2.0].abs().max() == 0


def test_the_penalty_is_not_scaled_by_the_rewards_of_a_group(gpt2_path: str, tmp_path: Path) -> None:
    options = {"baseline": "group_mean", "scale_rewards": "group", "loss_level": "token", "beta": BETA}
    trainer = make_trainer(
        "reinforce", gpt2_path, tmp_path, num_generations=3, per_device_train_batch_size=9, **options
    )
    advantages = trainer.credit(rollout_of(BETA)).advantages
    expected = [grpo_advantage(i) - BETA * k1(i, t) for i, t in TOKENS]
    assert [advantages[i, t].item() for i, t in TOKENS] == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_texts_without_reward_count_in_the_mean_over_the_tokens_of_prompts_that_are_kept(
    gpt2_path: str, tmp_path: Path
) -> None:
    options = {"loss_level": "token", "drop_equal_groups": True, "num_generations": 3, "beta": 0.0}
    trainer = make_trainer("reinforce", gpt2_path, tmp_path, per_device_train_batch_size=9, **options)
    rollout = rollout_of(0.0)
    rewards, mask = rollout.rewards.clone(), rollout.completion_mask.clone()
    rewards[0], mask[0] = torch.nan, 0
    rollout = replace(rollout, rewards=rewards, completion_mask=mask)
    rollout = rollout.with_credit(trainer.credit(rollout))
    new = (OLD * mask).requires_grad_()
    trainer.loss(ScoredCompletions(log_probs=new * mask, entropy=torch.zeros(9, 4)), rollout).backward()
    advantages = [0.0, 0.5, -0.5, 0.0, 0.0, 0.0, -0.65, -0.2, 0.85]  # less the mean of the others that have a reward
    expected = -torch.tensor(advantages).unsqueeze(1) * mask / (3 + 1 + 2 + 1 + 4 + 2)
    assert new.grad is not None
    torch.testing.assert_close(new.grad, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("level", ["sequence", "token"])
@pytest.mark.parametrize(
    ("scale", "baseline"),
    [("batch", "none"), ("batch", "moving_average"), ("batch", half_below), ("group", half_below)],
)
def test_equal_rewards_have_no_scale_whatever_the_baseline(
    scale: str, baseline: Any, level: str, gpt2_path: str, tmp_path: Path
) -> None:
    options = {"scale_rewards": scale, "baseline": baseline, "loss_level": level, "beta": 0.0}
    trainer = make_trainer(
        "reinforce", gpt2_path, tmp_path, num_generations=3, per_device_train_batch_size=9, **options
    )
    rollout = rollout_of(0.0)
    assert trainer.credit(rollout).advantages.abs().max() > 0.1
    equal = trainer.credit(replace(rollout, rewards=torch.full((9,), 1000.1)))
    assert equal.advantages.abs().max() == 0
