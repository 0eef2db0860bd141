"""The regression in closed form, against numpy's least squares."""

import numpy as np
import pytest
import torch
from torch import Tensor

from lmrl import core

BATCH, TOKENS, FEATURES = 12, 7, 5


def sample(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Returns features of unlike scales, targets that follow them with noise, and a mask of unlike lengths."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(BATCH, TOKENS, FEATURES, generator=generator) * torch.tensor([1.0, 10.0, 0.1, 3.0, 1.0])
    features += torch.tensor([0.0, 5.0, 1.0, -2.0, 100.0])
    targets = features @ torch.tensor([0.5, -0.1, 2.0, 0.0, 0.3])
    targets = targets + 0.2 * torch.randn(BATCH, TOKENS, generator=generator)
    lengths = torch.randint(1, TOKENS + 1, (BATCH, 1), generator=generator)
    return features, targets, (torch.arange(TOKENS) < lengths).long()


def rows(features: Tensor, targets: Tensor, mask: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Returns the tokens that count as a matrix and a vector."""
    kept = mask.bool()
    return features[kept].double().numpy(), targets[kept].double().numpy()


def test_moments_are_sums_of_products_worked_by_hand() -> None:
    features = torch.tensor([[[2.0], [3.0], [99.0]]])
    moments = core.regression_moments(features, torch.tensor([[5.0, 7.0, 99.0]]), torch.tensor([[1, 1, 0]]))
    assert moments.tolist() == [[2.0, 5.0, 12.0], [5.0, 13.0, 31.0], [12.0, 31.0, 74.0]]
    assert moments.dtype == torch.float64


def test_moments_of_parts_add_up_to_those_of_all() -> None:
    features, targets, mask = sample()
    parts = [core.regression_moments(features[a:b], targets[a:b], mask[a:b]) for a, b in ((0, 5), (5, 5), (5, 12))]
    torch.testing.assert_close(sum(parts), core.regression_moments(features, targets, mask))


def test_what_stands_on_padding_is_not_read() -> None:
    features, targets, mask = sample()
    poisoned = features.masked_fill(~mask.bool().unsqueeze(2), torch.nan)
    moments = core.regression_moments(poisoned, targets.masked_fill(~mask.bool(), torch.inf), mask)
    torch.testing.assert_close(moments, core.regression_moments(features, targets, mask))


def test_without_shrinkage_the_weights_are_those_of_least_squares() -> None:
    batch = sample()
    x, y = rows(*batch)
    expected, *_ = np.linalg.lstsq(np.c_[np.ones(len(x)), x], y, rcond=None)
    found = core.fit_ridge(core.regression_moments(*batch), 1e-12)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("shrinkage", [1e-3, 0.1, 10.0])
def test_the_weights_are_those_of_ridge_regression_on_standardized_features(shrinkage: float) -> None:
    """Ridge regression is least squares with a row more for each feature, which asks its weight to be 0."""
    batch = sample()
    x, y = rows(*batch)
    standardized = (x - x.mean(0)) / x.std(0)
    penalty = np.sqrt(shrinkage * len(x)) * np.eye(FEATURES)
    slopes, *_ = np.linalg.lstsq(np.r_[standardized, penalty], np.r_[y - y.mean(), np.zeros(FEATURES)], rcond=None)
    values = core.linear_values(batch[0], core.fit_ridge(core.regression_moments(*batch), shrinkage))
    np.testing.assert_allclose(values[batch[2].bool()].numpy(), y.mean() + standardized @ slopes, rtol=1e-5)


def test_the_scale_and_place_of_a_feature_change_no_value() -> None:
    features, targets, mask = sample()
    moved = features * torch.tensor([7.0, 1.0, 1.0, 0.01, 1.0]) + 3
    values = [
        core.linear_values(x, core.fit_ridge(core.regression_moments(x, targets, mask), 0.1))
        for x in (features, moved)
    ]
    torch.testing.assert_close(values[0], values[1], rtol=1e-4, atol=1e-4)


def test_constant_and_doubled_features_get_a_finite_solution() -> None:
    features, targets, mask = sample()
    constant = torch.full_like(features[..., :1], 1234.5)
    wide = torch.cat([features, features, constant], dim=2)
    weights = core.fit_ridge(core.regression_moments(wide, targets, mask), 1e-3)
    assert weights[-1] == 0
    torch.testing.assert_close(weights[1 : FEATURES + 1], weights[FEATURES + 1 : -1], rtol=1e-6, atol=1e-9)


def test_states_of_one_prompt_that_differ_by_rounding_are_a_constant() -> None:
    """Batches of other widths round a state otherwise, as a whole: small numbers of it as much as large ones."""
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(32, generator=generator)
    state[:4] = 1e-4
    features = state + 1e-6 * torch.randn(BATCH, TOKENS, 32, generator=generator)
    targets = torch.rand(BATCH, TOKENS, generator=generator)
    mask = torch.ones(BATCH, TOKENS)
    weights = core.fit_ridge(core.regression_moments(features, targets, mask), 1e-3)
    elsewhere = torch.randn(BATCH, TOKENS, 32, generator=generator)
    torch.testing.assert_close(core.linear_values(elsewhere, weights), targets.mean().expand(BATCH, TOKENS))


def test_much_shrinkage_leaves_the_mean() -> None:
    batch = sample()
    _, y = rows(*batch)
    weights = core.fit_ridge(core.regression_moments(*batch), 1e12)
    torch.testing.assert_close(core.linear_values(batch[0], weights), torch.full((BATCH, TOKENS), float(y.mean())))


def test_without_tokens_all_weights_are_zero() -> None:
    features, targets, mask = sample()
    moments = core.regression_moments(features, targets, torch.zeros_like(mask))
    assert core.fit_ridge(moments, 0.1).tolist() == [0.0] * (FEATURES + 1)


def test_the_squared_error_needs_the_moments_alone() -> None:
    train, held_out = sample(0), sample(1)
    weights = core.fit_ridge(core.regression_moments(*train), 0.01)
    values = core.linear_values(held_out[0], weights)
    expected = ((values - held_out[1]) ** 2)[held_out[2].bool()].double().sum()
    found = core.squared_error(core.regression_moments(*held_out), weights)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


def test_wide_states_are_projected_alike_each_time() -> None:
    states = torch.randn(2, 3, 1_500)
    narrow = core.narrow(states)
    assert narrow.shape == (2, 3, 1_024)
    assert torch.equal(core.narrow(states), narrow)
    norms = narrow.norm(dim=-1) / states.norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones(2, 3), rtol=0.15, atol=0)
    assert torch.equal(core.narrow(states[..., :1_024]), states[..., :1_024])


def test_sums_so_far_are_of_the_tokens_before_and_not_of_padding() -> None:
    embeddings = torch.tensor([[[1.0, 10.0], [2.0, 20.0], [4.0, 40.0], [8.0, 80.0]]])
    sums = core.sums_so_far(embeddings, torch.tensor([[1, 1, 0, 0]]))
    assert sums.tolist() == [[[0.0, 0.0], [1.0, 10.0], [3.0, 30.0], [3.0, 30.0]]]


def test_features_have_the_place_of_the_token_and_its_products() -> None:
    states = torch.tensor([[[5.0], [6.0]]])
    others = torch.tensor([[[2.0], [3.0]]])
    assert core.join_features(states, others).tolist() == [[[5.0, 2.0, 0.0, 0.0], [6.0, 3.0, 1.0, 3.0]]]


def test_shapes_that_do_not_fit_are_refused() -> None:
    features, targets, mask = sample()
    with pytest.raises(ValueError, match=r"`features` must have 3 dimensions, got shape \(12, 7\)"):
        core.regression_moments(targets, targets, mask)
    with pytest.raises(ValueError, match="`mask` must have the shape of `targets`"):
        core.regression_moments(features, targets, mask[:, 1:])
