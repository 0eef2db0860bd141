"""Masked sums, means and moments, with numbers worked by hand and poison where nothing may be read."""

import pytest
import torch

from lmrl import core

NAN, INF = float("nan"), float("inf")
VALUES = torch.tensor([[1.0, 2.0, NAN], [3.0, INF, -INF]])
MASK = torch.tensor([[1, 1, 0], [1, 0, 0]])


def test_masked_sum_and_mean_do_not_read_what_is_masked() -> None:
    assert core.masked_sum(VALUES, MASK).item() == 6.0
    assert core.masked_sum(VALUES, MASK, dim=1).tolist() == [3.0, 3.0]
    assert core.masked_mean(VALUES, MASK).item() == 2.0
    assert core.masked_mean(VALUES, MASK, dim=1).tolist() == [1.5, 3.0]


def test_the_gradient_of_a_masked_sum_is_zero_at_masked_poison() -> None:
    values = VALUES.clone().requires_grad_()
    core.masked_sum(values, MASK).backward()
    assert values.grad.tolist() == [[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]


def test_an_empty_selection_sums_and_averages_to_zero() -> None:
    assert core.masked_sum(VALUES, torch.zeros_like(MASK)).item() == 0.0
    assert core.masked_mean(VALUES, torch.zeros_like(MASK), dim=1).tolist() == [0.0, 0.0]


def whitened(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Returns the values that count, standardized by their own moments."""
    return core.standardize(values, core.masked_moments(values, mask))[mask.bool()]


def test_standardized_by_hand() -> None:
    # 1, 2, 3: mean 2, unbiased variance 1
    assert torch.allclose(whitened(VALUES, MASK), torch.tensor([-1.0, 0.0, 1.0]), atol=1e-6)


def test_standardized_values_do_not_change_when_padding_is_added() -> None:
    padded = torch.cat([VALUES, torch.full((2, 4), 1e6)], dim=1)
    mask = torch.cat([MASK, torch.zeros(2, 4, dtype=MASK.dtype)], dim=1)
    assert torch.equal(whitened(padded, mask), whitened(VALUES, MASK))


@pytest.mark.parametrize("values", [[5.0], [7.0, 7.0, 7.0]])
def test_one_value_or_equal_values_give_no_infinity(values: list[float]) -> None:
    white = whitened(torch.tensor([values]), torch.ones(1, len(values)))
    assert torch.isfinite(white).all()
    assert white.abs().max() == (5.0 if len(values) == 1 else 0.0)


def test_moments_of_two_halves_add_up_to_the_moments_of_both() -> None:
    halves = core.masked_moments(VALUES[:1], MASK[:1]) + core.masked_moments(VALUES[1:], MASK[1:])
    assert halves.tolist() == core.masked_moments(VALUES, MASK).tolist() == [3.0, 6.0, 14.0]


def test_last_index_counts_the_mask_and_not_the_ids() -> None:
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]])
    assert core.last_index(mask).tolist() == [1, 3, -1, 1]
