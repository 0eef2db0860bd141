"""SHAPING: dense rewards of REINFORCE, by hand, and their expected gradient, over all texts of a tiny vocabulary."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad
from training import make_trainer

from lmrl import core
from lmrl.rewards import Reward
from lmrl.trainers import Rollout

NAN = float("nan")
EOS, A, B = 1, 3, 4
BETA = 0.3
TEXTS = [(EOS,), *itertools.product((A, B), (EOS, A, B))]  # of two tokens at most
STARTS = {(): 0, (A,): 1, (B,): 2}


class Arbitrary(Reward):
    """A reward whose potential is made up."""

    potential = 0
    potentials = {"": 1.0, "a": 2.0, "b": -0.7, "a b": 4.0}

    def scores(self, completions: Any, prompts: Any, columns: Any) -> Any:
        return [0.0 for _ in completions]

    def progress(self, *, prefixes: Any, **_: Any) -> Any:
        return [[[self.potentials[text]] for text in each] for each in prefixes]


def _rollout(texts: list[tuple[int, ...]], rewards: Tensor, **more: Tensor) -> Rollout:
    width = max(map(len, texts))
    lengths = torch.tensor([len(text) for text in texts])
    tensors = {
        "prompt_ids": torch.full((len(texts), 1), 6),
        "prompt_mask": torch.ones(len(texts), 1, dtype=torch.long),
        "completion_ids": torch.tensor([[*text, *[0] * (width - len(text))] for text in texts]),
        "completion_mask": (torch.arange(width) < lengths.unsqueeze(1)).long() * ~rewards.isnan().unsqueeze(1),
        "rewards": rewards,
        "old_log_probs": torch.zeros(len(texts), width),
        "mean_length": lengths.double().mean().expand(len(texts)),
    }
    return Rollout.from_dict({**tensors, **more})


def _make(folder: Path, gpt2_path: str, **options: Any) -> Any:
    by_token = {"loss_level": "token", "shaping": "progress", **options}
    return make_trainer("reinforce", gpt2_path, folder, Arbitrary("arbitrary", signature="arbitrary"), **by_token)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # dense rewards 1, 2, 3 and 1, 0: what is to come is 6, 5, 3 and 1, 0, and 0 after its end
        ({"baseline": "none"}, [[6.0, 5.0, 3.0], [1.0, 0.0, 0.0]]),
        ({"baseline": "batch_mean"}, [[2.5, 2.5, 1.5], [-2.5, -2.5, 0.0]]),
        ({"baseline": "leave_one_out"}, [[5.0, 5.0, 3.0], [-5.0, -5.0, 0.0]]),
        ({"baseline": lambda rewards, group: rewards.max().expand(2)}, [[0.0, 0.0, 0.0], [-5.0, -5.0, 0.0]]),
        # by the standard deviation of 6 and 1, which is 5 / sqrt(2)
        ({"scale_rewards": "group"}, [[2**0.5, 2**0.5, 0.6 * 2**0.5], [-(2**0.5), -(2**0.5), 0.0]]),
    ],
)
def test_dense_rewards_of_reinforce(options: dict[str, Any], expected: Any, gpt2_path: str, tmp_path: Path) -> None:
    trainer = _make(tmp_path, gpt2_path, beta=0.0, **options)
    rollout = _rollout([(A, B, A), (A, EOS)], torch.tensor([6.0, 1.0]))
    torch.testing.assert_close(trainer.credit(rollout).advantages, torch.tensor(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("scale", ["group", "batch"])
def test_dense_rewards_of_equal_texts_have_no_scale(scale: str, gpt2_path: str, tmp_path: Path) -> None:
    trainer = _make(tmp_path, gpt2_path, beta=0.0, scale_rewards=scale)
    rollout = _rollout([(A, B, A), (A, EOS)], torch.tensor([6.0, 6.0]))
    assert trainer.credit(rollout).advantages.tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("baseline", ["none", "moving_average", "leave_one_out"])
def test_padding_beyond_the_longest_completion_has_no_advantage(baseline: str, gpt2_path: str, tmp_path: Path) -> None:
    trainer = _make(tmp_path, gpt2_path, beta=0.0, baseline=baseline, max_completion_length=3)
    rollout = _rollout([(A, B, A), (A, EOS)], torch.tensor([6.0, 1.0]))
    of_tokens = ("completion_ids", "completion_mask", "old_log_probs")
    padded = {name: pad(getattr(rollout, name), (0, 5)) for name in of_tokens}
    expected = pad(trainer.credit(rollout).advantages, (0, 5))
    trainer._average = None
    advantages = trainer.credit(replace(rollout, **padded)).advantages
    torch.testing.assert_close(advantages, expected, atol=1e-6, rtol=0)


def test_the_moving_average_of_what_is_to_come_has_a_number_for_each_place(gpt2_path: str, tmp_path: Path) -> None:
    options = {"baseline": "moving_average", "baseline_decay": 0.5, "num_generations": 1, "beta": 0.0}
    trainer = _make(tmp_path, gpt2_path, **options)
    rewards = torch.tensor([6.0, 1.0])
    trainer.credit(_rollout([(A, B, A), (A, EOS)], rewards))
    trainer.credit(_rollout([(A, B, A), (A, EOS)], rewards + 2))
    # 3.5, 2.5, 1.5 and 5.5, 4.5, 2 + 1.5
    assert trainer._average.tolist() == [4.5, 3.5, *[2.5] * 6]
    rollout = _rollout([(A, B, A), (B, A)], torch.tensor([6.0, NAN]))
    assert rollout.with_credit(trainer.credit(rollout)).advantages.tolist() == [[1.5, 1.5, 0.5], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    "baseline",
    [
        "none",
        "batch_mean",
        "group_mean",
        "leave_one_out",
        "moving_average",
        "greedy",
        "critic",
        lambda rewards, group: core.leave_one_out(rewards, group).square(),
    ],
)
def test_the_expected_gradient_with_dense_rewards_is_that_of_the_plain_reward(
    baseline: Any, gpt2_path: str, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(0)
    estimator = "exact" if baseline == "leave_one_out" else "k1"
    options = {"baseline": baseline, "kl_estimator": estimator, "beta": BETA, "max_completion_length": 2}
    trainer = _make(tmp_path, gpt2_path, **options)
    rewards = torch.randn(len(TEXTS), generator=generator, dtype=torch.float64)
    logits, ref_logits = torch.randn(2, len(STARTS), 3, generator=generator, dtype=torch.float64)
    logits.requires_grad_()
    drawn = [[(STARTS[text[:t]], (EOS, A, B).index(text[t])) for t in range(len(text))] for text in TEXTS]
    start, token = torch.tensor([[*row, (0, 0)][:2] for row in drawn]).unbind(dim=-1)
    mask = torch.tensor([[1, int(len(text) == 2)] for text in TEXTS])
    log_probs = logits.log_softmax(-1)[start, token]
    k1 = log_probs - ref_logits.log_softmax(-1)[start, token]
    kl = (logits.softmax(-1) * (logits.log_softmax(-1) - ref_logits.log_softmax(-1))).sum(-1)[start]

    # 1. Every pair of texts, the two completions of a prompt: each pair is a rollout.
    pairs = torch.tensor(list(itertools.product(range(len(TEXTS)), repeat=2))).flatten()
    of_texts = {"old_log_probs": log_probs, "ref_log_probs": log_probs - k1}
    if estimator == "exact":
        of_texts["exact_kl"] = kl
    of_texts["old_values"] = torch.randn(len(STARTS), 5, generator=generator)[start]
    if baseline == "greedy":
        of_texts["greedy_rewards"] = torch.tensor([[0.4, -0.6]]).expand(len(TEXTS), -1)  # of the prompt
    known = {name: tensor.detach()[pairs] for name, tensor in of_texts.items()}
    trainer.credit(_rollout([TEXTS[row] for row in pairs], rewards[pairs] + 2, **known))  # the rollout before
    trainer.model.eval()  # which learns nothing more
    rollout = _rollout([TEXTS[row] for row in pairs], rewards[pairs], **known)
    advantages = torch.cat([trainer.credit(pair).advantages for pair in rollout.split(2)])

    # 2. The expected gradient over all pairs, and that of the reward less the KL.
    probs = core.masked_sum(log_probs, mask, dim=1).exp()
    assert probs.sum().item() == pytest.approx(1, abs=1e-12)
    of_pairs = probs.detach()[pairs].view(-1, 2).prod(dim=1).repeat_interleave(2)
    # The mean of a pair has in it the completion itself.
    share = 0.5 if baseline in ("batch_mean", "group_mean") else 1.0
    (of_pairs.unsqueeze(1) * advantages * log_probs[pairs] * mask[pairs] / 2 / share).sum().backward(retain_graph=True)
    estimated = logits.grad.clone()
    logits.grad = None
    (probs * (rewards - BETA * core.masked_sum(k1, mask, dim=1))).sum().backward()
    assert logits.grad.abs().max() > 0.1
    torch.testing.assert_close(estimated, logits.grad, atol=1e-9, rtol=0)


def test_what_is_to_come_is_the_sum_of_dense_rewards(gpt2_path: str, tmp_path: Path) -> None:
    """Of the function that PPO has, whose differences sum up to the final reward."""
    trainer = _make(tmp_path, gpt2_path, baseline="none", beta=BETA)
    texts = [(A, B, A), (B, A), (EOS,)]
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(3, generator=generator, dtype=torch.float64)
    log_probs, ref_log_probs = torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)
    rollout = _rollout(texts, rewards, old_log_probs=log_probs, ref_log_probs=ref_log_probs)
    potentials = torch.tensor([[1.0, 2.0, 4.0], [1.0, -0.7, NAN], [1.0, NAN, NAN]], dtype=torch.float64)
    dense = core.shaped_rewards(rewards, potentials, rollout.completion_mask)
    torch.testing.assert_close(dense.sum(dim=1), rewards, atol=1e-9, rtol=0)
    expected = core.discounted_returns(dense - BETA * (log_probs - ref_log_probs), rollout.completion_mask)
    torch.testing.assert_close(trainer.credit(rollout).advantages, expected, atol=1e-6, rtol=0)
