"""The importance ratio, against numbers worked by hand."""

import math

import pytest
import torch

from lmrl.core import IMPORTANCE_MODES, importance_ratio

NAN = float("nan")
LOG_2 = math.log(2)
# Ratios of tokens: 4 and 1/2; 2 and 2, then padding; one that is not known and 1/4.
POLICY = torch.tensor([[-1.0, -2.0, -1.0], [-1.0, -1.0, NAN], [-1.0, -3.0, -1.0]])
SAMPLER = POLICY - LOG_2 * torch.tensor([[2.0, -1.0, 0.0], [1.0, 1.0, 9.0], [NAN, -2.0, 0.0]])
MASK = torch.tensor([[1, 1, 0], [1, 1, 0], [1, 1, 0]])


@pytest.mark.parametrize(
    ("mode", "expected", "outside"),
    [
        ("sequence_truncate", [2.0, 3.0, 0.5], [0, 1, 1]),
        ("sequence_mask", [2.0, 0.0, 0.0], [0, 1, 1]),
        ("token_truncate", [[3.0, 0.5, 1.0], [2.0, 2.0, 1.0], [1.0, 0.5, 1.0]], [[1, 0, 0], [0, 0, 0], [0, 1, 0]]),
        ("token_mask", [[0.0, 0.5, 1.0], [2.0, 2.0, 1.0], [1.0, 0.0, 1.0]], [[1, 0, 0], [0, 0, 0], [0, 1, 0]]),
    ],
)
def test_ratios_beyond_their_bounds_are_truncated_or_masked(mode: str, expected: list, outside: list) -> None:
    ratio, is_outside = importance_ratio(POLICY, SAMPLER, MASK, mode, low=0.5, high=3.0)
    assert torch.allclose(ratio, torch.tensor(expected), atol=1e-6)
    assert is_outside.int().tolist() == outside


def test_without_bounds_the_ratio_is_that_of_probabilities() -> None:
    ratio, is_outside = importance_ratio(POLICY, SAMPLER, MASK)
    assert torch.allclose(ratio, torch.tensor([2.0, 4.0, 0.25]), atol=1e-6)
    assert not is_outside.any()


@pytest.mark.parametrize("mode", IMPORTANCE_MODES)
def test_of_one_policy_the_ratio_is_one(mode: str) -> None:
    ratio, is_outside = importance_ratio(POLICY, POLICY, MASK, mode, high=1.0)
    assert (ratio == 1).all() and not is_outside.any()
