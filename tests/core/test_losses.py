"""The losses element by element, by hand, and what they reduce to."""

import math

import pytest
import torch

from lmrl import core


def test_reinforce_loss_by_hand() -> None:
    assert core.reinforce_loss(torch.tensor([-2.0, -1.0]), torch.tensor([0.5, -1.0])).tolist() == [1.0, -1.0]


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        (1.0, 2.0, -2.0),
        (1.5, 2.0, -2.4),  # clipped at 1.2
        (0.5, 2.0, -1.0),  # the lower of the two is the unclipped one
        (1.5, -2.0, 3.0),  # not clipped: the loss may always get worse
        (0.5, -2.0, 1.6),  # clipped at 0.8
    ],
)
def test_clipped_policy_loss_by_hand(ratio: float, advantage: float, expected: float) -> None:
    loss = core.clipped_policy_loss(torch.tensor([math.log(ratio)]), torch.zeros(1), torch.tensor([advantage]))
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_two_clip_ranges() -> None:
    log_probs = torch.tensor([math.log(1.5), math.log(0.5)])
    loss = core.clipped_policy_loss(log_probs, torch.zeros(2), torch.tensor([1.0, -1.0]), 0.1, 0.3)
    assert torch.allclose(loss, torch.tensor([-1.3, 0.9]))


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [("dapo", 6.0 / (2 * 1.5)), ("grpo", (1.5 + 3.0) / 2), ("dr_grpo", 6.0 / (2 * 4))],
)
def test_losses_of_tokens_are_averaged_by_name(loss_type: str, expected: float) -> None:
    per_token = torch.tensor([[1.0, 2.0, 9.0], [3.0, 9.0, math.nan]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    loss = core.average_tokens(per_token, mask, loss_type, torch.tensor(1.5), 4)
    assert loss.item() == pytest.approx(expected)


def test_at_ratio_one_the_gradient_is_that_of_reinforce() -> None:
    log_probs, advantages = torch.randn(5, requires_grad=True), torch.randn(5)
    (clipped,) = torch.autograd.grad(
        core.clipped_policy_loss(log_probs, log_probs.detach(), advantages).sum(), log_probs
    )
    (plain,) = torch.autograd.grad(core.reinforce_loss(log_probs, advantages).sum(), log_probs)
    assert torch.allclose(clipped, plain, atol=1e-6)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1.0, 0.5), (1.1, 0.405), (1.5, 0.32), (0.0, 2.0)],  # old 1, return 2, range .2: 1.5 is held at 1.2
)
def test_clipped_value_loss_by_hand(value: float, expected: float) -> None:
    loss = core.clipped_value_loss(torch.tensor([value]), torch.tensor([1.0]), torch.tensor([2.0]), 0.2)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_what_is_clipped_has_a_gradient_that_is_stopped_below_or_above() -> None:
    log_probs = torch.tensor([math.log(1.5), math.log(1.5), math.log(0.5), math.log(0.5)])
    low, high = core.clipped(log_probs, torch.zeros(4), torch.tensor([1.0, -1.0, -1.0, 1.0]), 0.2, 0.2)
    assert low.tolist() == [False, False, True, False]
    assert high.tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1.0, 2.0, 3.0], 1.0), ([2.0, 2.0, 2.0], 0.0), ([3.0, 2.0, 1.0], -3.0), ([101.0, 102.0, 103.0], 1.0)],
)
def test_explained_variance_by_hand(values: list[float], expected: float) -> None:
    returns, mask = torch.tensor([1.0, 2.0, 3.0]), torch.ones(3)
    errors = core.masked_moments(returns - torch.tensor(values), mask)
    assert core.explained_variance(errors, core.masked_moments(returns, mask)).item() == pytest.approx(expected)


def test_explained_variance_of_equal_returns_is_not_a_number() -> None:
    moments = core.masked_moments(torch.ones(3), torch.ones(3))
    assert core.explained_variance(moments, moments).isnan()


@pytest.mark.parametrize(("value", "tokens"), [(0.1, 500), (0.1, 1000), (37.3, 3001)])
def test_rounding_of_equal_returns_is_no_variance_to_explain(value: float, tokens: int) -> None:
    returns, mask = torch.full((tokens,), value), torch.ones(tokens)
    errors = core.masked_moments(returns - torch.linspace(0, 1, tokens), mask)
    assert core.explained_variance(errors, core.masked_moments(returns, mask)).isnan()


def test_a_small_variance_of_large_returns_is_one_to_explain() -> None:
    returns, mask = torch.tensor([100.0, 100.0, 100.01, 100.01]), torch.ones(4)
    errors = core.masked_moments(returns - 100.0, mask)
    assert core.explained_variance(errors, core.masked_moments(returns, mask)).item() == pytest.approx(0, abs=1e-3)


def test_quarters_are_by_the_place_over_the_number_of_tokens() -> None:
    mask = torch.tensor([[1] * 8, [1] * 5 + [0] * 3, [1, 1] + [0] * 6, [0] * 8])
    assert core.quarters(mask).tolist() == [
        [0, 0, 1, 1, 2, 2, 3, 3],
        [0, 0, 1, 2, 3, -1, -1, -1],
        [0, 2, -1, -1, -1, -1, -1, -1],
        [-1] * 8,
    ]
