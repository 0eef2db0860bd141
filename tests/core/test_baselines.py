"""The baselines by hand, and their gradients against the exact one by enumeration of every completion."""

import itertools
import math
import statistics

import pytest
import torch

from lmrl import core
from lmrl.core.baselines import shrinkage

NAN = float("nan")


def test_leave_one_out_by_hand() -> None:
    rewards = torch.tensor([1.0, 2.0, 6.0, 0.0, 0.0, 3.0])
    assert core.leave_one_out(rewards, 3).tolist() == [4.0, 3.5, 1.5, 1.5, 1.5, 0.0]


def test_leave_one_out_skips_what_could_not_be_scored() -> None:
    baseline = core.leave_one_out(torch.tensor([1.0, NAN, 3.0, NAN, NAN, 5.0]), 3)
    assert baseline[:3].tolist() == [3.0, 2.0, 1.0]
    assert baseline[5].isnan()


@pytest.mark.parametrize("reward", [0.3, 100.3, 1000.1, 12345.6])
@pytest.mark.parametrize("group", [4, 8])
def test_equal_rewards_give_no_advantage_at_all(group: int, reward: float) -> None:
    """A rounding error, too, and whatever else is divided by the standard deviation of equal rewards, becomes 0."""
    rewards = torch.full((8,), reward)
    rewards[5] = NAN
    own = (core.leave_one_out(rewards, group), core.group_mean(rewards, group), shrinkage(rewards, group))
    for baseline in (*own, core.batch_mean(rewards)):
        assert (rewards - baseline)[rewards == rewards].tolist() == [0.0] * 7
    assert core.group_std(rewards, group).tolist() == [math.inf] * 8


def test_shrinkage_by_hand() -> None:
    """Means 2, 4 and 7, variances 2, 0 and 2. The mean of a single other completion has the variance of one."""
    baseline = shrinkage(torch.tensor([1.0, 3.0, 4.0, 4.0, 6.0, 8.0]), 2)
    first = 1 / (1 + (4.5 - 0.5 + 4.5 / 2))  # the others: variance 1 within, 4.5 between
    second = 2 / (2 + (12.5 - 1 + 12.5 / 2))
    third = 1 / (1 + (2 - 0.5 + 2 / 2))
    expected = [3 + first * (5.5 - 3), 1 + first * (5.5 - 1)]
    expected += [4 + second * (4.5 - 4)] * 2
    expected += [8 + third * (3 - 8), 6 + third * (3 - 6)]
    assert baseline.tolist() == pytest.approx(expected, rel=1e-6)


def _shrinkage_by_loops(rewards: list[float], group: int) -> list[float]:
    prompts = [rewards[start : start + group] for start in range(0, len(rewards), group)]
    baseline = []
    for own in prompts:
        others = [[reward for reward in other if not math.isnan(reward)] for other in prompts if other is not own]
        others = [other for other in others if other]
        means = [statistics.mean(other) for other in others]
        variances = [statistics.variance(other) for other in others if len(other) > 1]
        for place in range(group):
            rest = [reward for j, reward in enumerate(own) if j != place and not math.isnan(reward)]
            value = statistics.mean(rest or means or [NAN])
            if rest and variances and len(means) > 1:
                within, between = statistics.mean(variances), statistics.variance(means)
                share = statistics.mean(1 / len(other) for other in others)
                distance = max(0, between - within * share) + between / len(means)
                noise = within / len(rest)
                value += noise / (noise + distance) * (statistics.mean(means) - value)
            baseline.append(value)
    return baseline


@pytest.mark.parametrize(("group", "unscored"), [(1, 0.0), (2, 0.0), (4, 0.0), (4, 0.3), (3, 0.6), (12, 0.2)])
def test_shrinkage_is_that_of_plain_loops(group: int, unscored: float) -> None:
    rewards = torch.randn(24) + 5 + torch.randn(24 // group).repeat_interleave(group)
    rewards[torch.rand(24) < unscored] = NAN
    scored = ~rewards.isnan()
    baseline, expected = shrinkage(rewards, group), torch.tensor(_shrinkage_by_loops(rewards.tolist(), group))
    assert torch.allclose(baseline[scored], expected[scored], atol=1e-4, equal_nan=True)


def test_shrinkage_does_not_read_the_completions_own_reward() -> None:
    rewards = torch.randn(24)
    for place in (0, 7, 23):
        other = rewards.clone()
        other[place] = -3.5
        assert shrinkage(other, 4)[place].item() == pytest.approx(shrinkage(rewards, 4)[place].item(), abs=1e-5)


@pytest.mark.parametrize("spread", [0.0, 0.3, 1.0, 3.0])
def test_shrinkage_is_nearer_to_the_expected_reward_than_what_it_is_made_of(spread: float) -> None:
    """The least mean squared error of any weight is 1 / (3 + 1 / (spread^2 + (spread^2 + 1 / 4) / 31))."""
    expected = torch.randn(500, 32).mul(spread).repeat_interleave(4, dim=1)
    rewards = expected + torch.randn(500, 128)
    found = torch.stack([shrinkage(each, 4) for each in rewards])
    least = 1 / (3 + 1 / (spread**2 + (spread**2 + 1 / 4) / 31))
    error = (found - expected).square().mean().item()
    assert error < 1.1 * least + 0.01
    assert error < (torch.stack([core.leave_one_out(each, 4) for each in rewards]) - expected).square().mean().item()


def test_batch_mean_leaves_out_what_could_not_be_scored() -> None:
    assert core.batch_mean(torch.tensor([1.0, NAN, 3.0])).tolist() == [2.0, 2.0, 2.0]


def test_group_mean_and_group_std_are_those_of_what_could_be_scored() -> None:
    rewards = torch.tensor([1.0, NAN, 3.0, 5.0, 5.0, NAN])
    assert core.group_mean(rewards, 3).tolist() == [2.0, 2.0, 2.0, 5.0, 5.0, 5.0]
    assert core.group_std(rewards, 3).tolist() == pytest.approx([2**0.5] * 3 + [math.inf] * 3)
    assert core.group_std(rewards, 6).tolist() == pytest.approx([rewards[~rewards.isnan()].std().item()] * 6)


@pytest.mark.parametrize(("tolerance", "expected"), [(0.0, [0, 0, 1, 1, 1, 1]), (0.5, [1, 1, 1, 1, 1, 1])])
def test_groups_are_equal_to_a_tolerance_and_where_nothing_is_to_compare(
    tolerance: float, expected: list[int]
) -> None:
    rewards = torch.tensor([1.0, 1.5, 2.0, NAN, NAN, NAN])
    assert core.equal_groups(rewards, 2, tolerance).tolist() == [bool(value) for value in expected]


def test_moving_average_uses_the_past_only() -> None:
    first, second = torch.tensor([1.0, 3.0]), torch.tensor([12.0, NAN])
    assert core.moving_average(first, None).tolist() == [2.0, 2.0]
    average = core.update_average(None, first, 0.9)
    assert average.item() == 2.0
    assert core.moving_average(second, average).tolist() == [2.0, 2.0]
    assert core.update_average(average, second, 0.9).item() == pytest.approx(3.0)


def test_rollouts_without_any_reward_are_no_past() -> None:
    unknown = core.update_average(None, torch.tensor([NAN, NAN]), 0.9)
    rewards = torch.tensor([1.0, 3.0])
    assert core.moving_average(rewards, unknown).tolist() == [2.0, 2.0]
    assert core.update_average(unknown, rewards, 0.9).item() == 2.0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", [0.0, 0.0, 0.0, 0.0]),
        ("batch_mean", [2.5, 2.5, 2.5, 2.5]),
        ("group_mean", [2.0, 2.0, 3.0, 3.0]),
        ("leave_one_out", [3.0, 1.0, 4.0, 2.0]),
        ("shrinkage", [3.0, 1.0, 4.0, 2.0]),  # from one other prompt nothing can be estimated
        ("moving_average", [0.5, 0.5, 0.5, 0.5]),
        ("greedy", [7.0, 7.0, 8.0, 8.0]),
    ],
)
def test_every_baseline_has_a_name(name: str, expected: list[float]) -> None:
    baseline = core.BASELINES[name](
        torch.tensor([1.0, 3.0, 2.0, 4.0]),
        num_generations=2,
        average=torch.tensor(0.5),
        greedy_rewards=torch.tensor([7.0, 7.0, 8.0, 8.0]),
    )
    assert baseline.tolist() == expected


def test_there_are_no_other_baselines() -> None:
    of_group = ["group_mean", "leave_one_out", "shrinkage"]
    assert list(core.BASELINES) == ["none", "batch_mean", *of_group, "moving_average", "greedy"]


# -- ENUM: 3 tokens, completions of length 2, every pair of completions -----------------------------------------------

VOCABULARY, LENGTH = 3, 2
COMPLETIONS = list(itertools.product(range(VOCABULARY), repeat=LENGTH))
REWARDS = torch.tensor([0.1, 0.9, -0.4, 0.3, 0.7, 0.2, -1.0, 0.5, 2.0], dtype=torch.double)


def _log_probs(theta: torch.Tensor) -> torch.Tensor:
    """Log-probability of each completion under a policy with a distribution per position, (9,)."""
    log_softmax = theta.log_softmax(-1)
    return torch.stack([sum(log_softmax[t, token] for t, token in enumerate(tokens)) for tokens in COMPLETIONS])


def _expected_gradient(theta: torch.Tensor, baseline) -> torch.Tensor:
    """Sum over all pairs of completions of a prompt of their probability times the gradient of their mean loss."""
    total = torch.zeros(())
    probs = _log_probs(theta).exp().detach()
    for i, j in itertools.product(range(len(COMPLETIONS)), repeat=2):
        pair = [i, j]
        advantages = REWARDS[pair] - baseline(REWARDS[pair])
        total = total + probs[i] * probs[j] * core.reinforce_loss(_log_probs(theta)[pair], advantages).mean()
    (gradient,) = torch.autograd.grad(total, theta)
    return -gradient


@pytest.mark.parametrize(
    ("baseline", "factor"),
    [
        (torch.zeros_like, 1.0),
        (lambda rewards: core.leave_one_out(rewards, 2), 1.0),
        (lambda rewards: shrinkage(rewards, 1), 1.0),  # of two prompts, each the baseline of the other
        (lambda rewards: core.moving_average(rewards, torch.tensor(0.37)), 1.0),
        (lambda rewards: torch.full_like(rewards, 0.7), 1.0),
        (lambda rewards: core.group_mean(rewards, 2), 0.5),
        (core.batch_mean, 0.5),  # contains the completion's own reward: 1 - 1/B
    ],
    ids=["none", "leave_one_out", "shrinkage", "moving_average", "greedy", "group_mean", "batch_mean"],
)
def test_the_expected_gradient_is_the_exact_one(baseline, factor: float) -> None:
    theta = torch.randn(LENGTH, VOCABULARY, dtype=torch.double, requires_grad=True)
    (exact,) = torch.autograd.grad((_log_probs(theta).exp() * REWARDS).sum(), theta)
    assert torch.allclose(_expected_gradient(theta, baseline), factor * exact, atol=1e-10)
