"""Estimators of KL(policy || reference) from samples of the policy, and the controller of its coefficient.

With `r = log p(token) - log q(token)`, p the policy sampled from and q the reference. From "Approximating KL
Divergence" (John Schulman, http://joschu.net/blog/kl-approx.html). In a reward use [`k1`], whose gradient through the
score function is the gradient of the KL; [`k2`] and [`k3`] are for watching, or for a loss.
"""

import torch
from torch import Tensor

from .masking import masked_sum


def k1(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """
    Returns `r`: unbiased, of either sign at a single token.

    Args:
        logps (`torch.Tensor` of shape `(B, T)`):
            Log-probabilities of the sampled tokens under the policy, <= 0.
        ref_logps (`torch.Tensor` of shape `(B, T)`):
            The same under the reference.

    Returns:
        `torch.Tensor` of shape `(B, T)`.
    """
    return logps - ref_logps


def k2(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """
    Returns `r^2 / 2`: biased, of low variance, never negative; its gradient is that of the KL at p = q.

    Args:
        logps (`torch.Tensor` of shape `(B, T)`):
            Log-probabilities of the sampled tokens under the policy, <= 0.
        ref_logps (`torch.Tensor` of shape `(B, T)`):
            The same under the reference.

    Returns:
        `torch.Tensor` of shape `(B, T)`, >= 0.
    """
    return (logps - ref_logps).square() / 2


def k3(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """
    Returns `exp(-r) - 1 + r`: unbiased and never negative.

    Args:
        logps (`torch.Tensor` of shape `(B, T)`):
            Log-probabilities of the sampled tokens under the policy, <= 0.
        ref_logps (`torch.Tensor` of shape `(B, T)`):
            The same under the reference.

    Returns:
        `torch.Tensor` of shape `(B, T)`, >= 0.
    """
    r = logps - ref_logps
    return torch.expm1(-r) + r


def sequence_kl(logps: Tensor, ref_logps: Tensor, mask: Tensor) -> Tensor:
    """
    Returns the log-ratio of whole completions, `sum_t k1`: the estimate of the KL in nats per completion.

    Args:
        logps (`torch.Tensor` of shape `(B, T)`):
            Log-probabilities of the sampled tokens under the policy, <= 0.
        ref_logps (`torch.Tensor` of shape `(B, T)`):
            The same under the reference.
        mask (`torch.Tensor` of shape `(B, T)`):
            1 where a token counts.

    Returns:
        `torch.Tensor` of shape `(B,)`.
    """
    return masked_sum(k1(logps, ref_logps), mask, dim=1)


def adaptive_coefficient(coefficient: float, kl: float, target: float, horizon: float, num_samples: int) -> float:
    """
    Returns the KL coefficient after one update of the proportional controller that steers the KL to a target.

        error = clip(kl / target - 1, -0.2, 0.2)
        coefficient <- coefficient * (1 + error * num_samples / horizon)

    From "Fine-Tuning Language Models from Human Preferences" (Ziegler et al., 2019,
    https://huggingface.co/papers/1909.08593), section 2.2; the clip of the error at 0.2 is theirs.

    Args:
        coefficient (`float`):
            Coefficient so far, > 0.
        kl (`float`):
            Mean KL per completion over the rollout of all processes, in nats.
        target (`float`):
            KL per completion to steer to, in nats, > 0.
        horizon (`float`):
            Completions over which a full correction would be made, > 0.
        num_samples (`int`):
            Completions in the rollout of all processes.

    Returns:
        `float`: the new coefficient, > 0 as long as `num_samples <= 5 * horizon`.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coefficient * (1 + error * num_samples / horizon)
