"""Tensors of other shapes than a function takes are refused: they would broadcast to a number like any other."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lmrl import core

B, BT, MOMENTS, CUBE = torch.zeros(4), torch.zeros(4, 4), torch.zeros(3), torch.zeros(4, 4, 2)

WRONG: dict[str, tuple[Callable[..., Any], tuple[Any, ...], str]] = {
    "batch_mean": (core.batch_mean, (BT,), "rewards"),
    "leave_one_out": (core.leave_one_out, (BT, 2), "rewards"),
    "moving_average": (core.moving_average, (B, B), "average"),
    "update_average": (core.update_average, (B, B, 0.9), "average"),
    "clipped": (core.clipped, (BT, BT, B, 0.2, 0.2), "advantages"),
    "explained_variance": (core.explained_variance, (MOMENTS, BT), "return_moments"),
    "quarters": (core.quarters, (B,), "mask"),
    "importance_ratio": (core.importance_ratio, (BT, BT, B), "mask"),
    "k1": (core.k1, (BT, B), "ref_log_probs"),
    "group_mean": (core.group_mean, (BT, 2), "rewards"),
    "group_std": (core.group_std, (BT, 2), "rewards"),
    "average_tokens": (core.average_tokens, (BT, B, "dapo", B, 4), "mask"),
    "equal_groups": (core.equal_groups, (BT, 2), "rewards"),
    "k3": (core.k3, (CUBE, CUBE), "log_probs"),
    "reinforce_loss": (core.reinforce_loss, (BT, B), "advantages"),
    "clipped_policy_loss": (core.clipped_policy_loss, (BT, BT, B), "advantages"),
    "clipped_value_loss": (core.clipped_value_loss, (BT, BT, B), "returns"),
    "masked_sum": (core.masked_sum, (BT, B), "mask"),
    "masked_mean": (core.masked_mean, (BT, B), "mask"),
    "masked_moments": (core.masked_moments, (BT, B), "mask"),
    "standardize": (core.standardize, (CUBE, MOMENTS), "values"),
    "last_index": (core.last_index, (B,), "mask"),
    "regression_moments": (core.regression_moments, (BT, BT, BT), "features"),
    "fit_ridge": (core.fit_ridge, (B, 0.1), "moments"),
    "squared_error": (core.squared_error, (B, B), "moments"),
    "sums_so_far": (core.sums_so_far, (BT, BT), "embeddings"),
    "join_features": (core.join_features, (BT, CUBE), "states"),
    "linear_values": (core.linear_values, (BT, B), "features"),
    "ended": (core.ended, (BT, B, [1]), "mask"),
    "weighted_rewards": (core.weighted_rewards, (B, B), "per_func"),
    "place_at_end": (core.place_at_end, (BT, BT), "rewards"),
    "shaped_rewards": (core.shaped_rewards, (B, B, BT), "potentials"),
    "discounted_returns": (core.discounted_returns, (BT, B), "mask"),
    "generalized_advantages": (core.generalized_advantages, (BT, B, BT), "values"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_tensor_of_another_shape_is_named(name: str) -> None:
    function, args, wrong = WRONG[name]
    with pytest.raises(ValueError, match=rf"^`{wrong}` must have .*, got .*\(4"):
        function(*args)


def test_every_function_of_tensors_is_in_the_table() -> None:
    functions = {name for name in core.__all__ if callable(getattr(core, name))}
    assert functions - {"adaptive_coefficient", "narrow"} == set(WRONG)


def test_the_message_has_rule_and_value() -> None:
    with pytest.raises(ValueError, match=r"^`mask` must have 2 dimensions, got shape \(4,\)\.$"):
        core.last_index(B)
    with pytest.raises(ValueError, match=r"^`mask` must have the shape of `values`, \(4, 4\), got \(4,\)\.$"):
        core.masked_sum(BT, B)
