"""Diagnostics of an update. None of them is trained on."""

import torch
from torch import Tensor

from .checks import check_shapes


def clipped(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, epsilon_low: float, epsilon_high: float
) -> tuple[Tensor, Tensor]:
    """Returns two masks, below and above: where the clipping of [`clipped_policy_loss`] makes the gradient 0."""
    check_shapes(1, 2, log_probs=log_probs, old_log_probs=old_log_probs, advantages=advantages)
    ratio = torch.exp(log_probs - old_log_probs)
    return (ratio < 1 - epsilon_low) & (advantages < 0), (ratio > 1 + epsilon_high) & (advantages > 0)


def explained_variance(error_moments: Tensor, return_moments: Tensor) -> Tensor:
    """
    Returns `1 - Var(returns - values) / Var(returns)`: 1 for a perfect critic, 0 for a constant one.

    Args:
        error_moments (`torch.Tensor` of shape `(3,)`):
            [`masked_moments`] of `returns - values`, summed over all processes.
        return_moments (`torch.Tensor` of shape `(3,)`):
            [`masked_moments`] of the returns.

    Returns:
        `torch.Tensor`: a scalar <= 1, negative for a critic worse than a constant, NaN if all returns are equal.
    """
    check_shapes(1, error_moments=error_moments, return_moments=return_moments)
    variation = _sum_of_squared_deviations(return_moments)
    return torch.where(variation > 0, 1 - _sum_of_squared_deviations(error_moments) / variation, torch.nan)


def quarters(mask: Tensor) -> Tensor:
    """
    Returns the quarter of its completion that each token is in, (B, T), int64: 0 to 3, from its index among the tokens
    where the mask (B, T) is 1; -1 where the mask is 0.
    """
    check_shapes(2, mask=mask)
    places = 4 * (mask.cumsum(dim=1) - 1) // mask.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.where(mask.bool(), places, -1)


def _sum_of_squared_deviations(moments: Tensor) -> Tensor:
    count, total, squares = moments.unbind()
    deviations = squares - total * total / count
    return torch.where(deviations > 1e-12 * squares, deviations, 0.0)  # smaller: rounding of equal values
