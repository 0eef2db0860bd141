"""Score placement, returns and GAE, worked by hand on completions of three tokens and less."""

import pytest
import torch

from lmrl import core

NAN = float("nan")
MASK = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]])


def test_the_score_stands_at_the_last_real_token() -> None:
    placed = core.place_at_end(torch.tensor([1.0, 2.0, 3.0, 4.0]), MASK)
    assert placed.tolist() == [[0.0, 0.0, 1.0], [0.0, 2.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 0.0]]


def test_a_missing_score_does_not_leak_into_other_tokens() -> None:
    assert core.place_at_end(torch.tensor([NAN]), torch.tensor([[1, 1, 0]])).nan_to_num(9.0).tolist() == [[0, 9, 0]]


def test_discounted_returns_by_hand() -> None:
    rewards = torch.tensor([[1.0, 2.0, 4.0], [1.0, 2.0, NAN]])
    returns = core.discounted_returns(rewards, torch.tensor([[1, 1, 1], [1, 1, 0]]), gamma=0.5)
    assert returns.tolist() == [[3.0, 4.0, 4.0], [2.0, 2.0, 0.0]]


def test_gae_by_hand() -> None:
    # gamma .5, lam .5; deltas: 0 + .5*2 - 1 = 0, 0 + .5*3 - 2 = -.5, 4 + 0 - 3 = 1
    # A2 = 1, A1 = -.5 + .25 = -.25, A0 = 0 - .0625
    rewards, values = torch.tensor([[0.0, 0.0, 4.0]]), torch.tensor([[1.0, 2.0, 3.0]])
    advantages = core.generalized_advantages(rewards, values, torch.ones(1, 3), gamma=0.5, lam=0.5)
    assert advantages.tolist() == [[-0.0625, -0.25, 1.0]]


def test_the_last_advantage_is_score_minus_value_whatever_lambda_is() -> None:
    for lam in (0.0, 0.5, 1.0):
        rewards = core.place_at_end(torch.tensor([2.0]), torch.tensor([[1, 1, 0]]))
        values = torch.tensor([[0.3, 0.7, 99.0]])
        advantages = core.generalized_advantages(rewards, values, torch.tensor([[1, 1, 0]]), lam=lam)
        assert advantages[0, 1].item() == pytest.approx(1.3)


def test_gae_reads_nothing_after_the_end() -> None:
    rewards, values = torch.tensor([[0.0, 1.0, 5.0]]), torch.tensor([[0.5, 0.5, 5.0]])
    mask = torch.tensor([[1, 1, 0]])
    clean = core.generalized_advantages(rewards, values, mask)
    rewards[0, 2], values[0, 2] = NAN, NAN
    assert torch.equal(core.generalized_advantages(rewards, values, mask), clean)
    assert clean[0, 2] == 0


def test_gae_with_lambda_one_is_the_return_minus_the_value() -> None:
    rewards, values = torch.randn(4, 3), torch.randn(4, 3)
    expected = (core.discounted_returns(rewards, MASK, 0.9) - values) * MASK
    assert torch.allclose(core.generalized_advantages(rewards, values, MASK, 0.9, 1.0), expected, atol=1e-6)


def test_gae_with_lambda_zero_is_the_td_error() -> None:
    rewards, values = torch.randn(1, 3), torch.randn(1, 3)
    expected = rewards + 0.9 * torch.cat([values[:, 1:], torch.zeros(1, 1)], dim=1) - values
    assert torch.allclose(core.generalized_advantages(rewards, values, torch.ones(1, 3), 0.9, 0.0), expected)


def test_the_kl_penalty_and_the_score_add_up_token_by_token() -> None:
    # beta .1, k1 = [.5, -.5]: rewards -.05 and .05 + 1; returns 1 and 1.05
    k1 = torch.tensor([[0.5, -0.5]])
    rewards = core.place_at_end(torch.tensor([1.0]), torch.ones(1, 2)) - 0.1 * k1
    assert torch.allclose(core.discounted_returns(rewards, torch.ones(1, 2)), torch.tensor([[1.0, 1.05]]))


def test_dense_rewards_by_hand() -> None:
    """Less the potential before the first token it is 0, 1, 3 in the first row, whose last token gets 6 - 3."""
    potentials = torch.tensor([[1.0, 2.0, 4.0], [5.0, 3.0, NAN], [7.0, NAN, NAN], [NAN, NAN, NAN]])
    shaped = core.shaped_rewards(torch.tensor([6.0, 1.0, 2.0, NAN]), potentials, MASK)
    assert shaped.tolist() == [[1.0, 2.0, 3.0], [-2.0, 3.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_dense_rewards_sum_up_to_the_reward_at_the_end(gamma: float) -> None:
    generator = torch.Generator().manual_seed(0)
    potentials = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    rewards = torch.randn(4, generator=generator, dtype=torch.float64)
    shaped = core.shaped_rewards(rewards, potentials, MASK, gamma)
    discounts = gamma ** torch.arange(3, dtype=torch.float64)
    sums = (shaped * discounts).sum(dim=1)
    torch.testing.assert_close(sums, (core.place_at_end(rewards, MASK) * discounts).sum(dim=1), atol=1e-14, rtol=0)


def test_dense_rewards_change_only_the_baseline_with_lambda_one() -> None:
    """Their advantages are those of a baseline that is greater by the potential, which no action changes."""
    generator = torch.Generator().manual_seed(0)
    rewards, potentials, values = torch.randn(4), torch.randn(4, 3, generator=generator), torch.randn(4, 3)
    shaped = core.generalized_advantages(core.shaped_rewards(rewards, potentials, MASK), values, MASK, lam=1.0)
    greater = values + potentials - potentials[:, :1]
    plain = core.generalized_advantages(core.place_at_end(rewards, MASK), greater, MASK, lam=1.0)
    torch.testing.assert_close(shaped, plain)
