"""Numbers that tell how an update went. None of them is trained on."""

import torch
from torch import Tensor

from .kl import k3
from .masking import masked_mean


def clip_fraction(
    logps: Tensor, old_logps: Tensor, advantages: Tensor, mask: Tensor, epsilon_low: float, epsilon_high: float
) -> Tensor:
    """
    Returns the share of elements whose gradient the clipping of [`clipped_policy_loss`] stops.

    Args:
        logps (`torch.Tensor` of shape `(B, T)`):
            Log-probabilities under the policy being trained.
        old_logps (`torch.Tensor` of shape `(B, T)`):
            The same under the policy that sampled.
        advantages (`torch.Tensor` of shape `(B, T)`):
            Advantages.
        mask (`torch.Tensor` of shape `(B, T)`):
            1 where an element counts.
        epsilon_low (`float`):
            As in the loss.
        epsilon_high (`float`):
            As in the loss.

    Returns:
        `torch.Tensor`: a scalar in [0, 1].
    """
    ratio = torch.exp(logps - old_logps)
    stopped = ((ratio < 1 - epsilon_low) & (advantages < 0)) | ((ratio > 1 + epsilon_high) & (advantages > 0))
    return masked_mean(stopped.float(), mask)


def approximate_kl(logps: Tensor, old_logps: Tensor, mask: Tensor) -> Tensor:
    """
    Returns the mean k3 estimate of KL(old policy || policy): how far the updates have gone from the rollout.

    Args:
        logps (`torch.Tensor` of shape `(B, T)`):
            Log-probabilities under the policy being trained.
        old_logps (`torch.Tensor` of shape `(B, T)`):
            The same under the policy that sampled.
        mask (`torch.Tensor` of shape `(B, T)`):
            1 where an element counts.

    Returns:
        `torch.Tensor`: a scalar >= 0, in nats per token.
    """
    return masked_mean(k3(old_logps, logps), mask)


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
    variance = _spread(return_moments)
    return torch.where(variance > 0, 1 - _spread(error_moments) / variance, torch.nan)


def _spread(moments: Tensor) -> Tensor:
    """The sum of squared deviations from the mean."""
    count, total, squares = moments.unbind()
    return squares - total * total / count
