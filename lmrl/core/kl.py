"""Estimators of KL(policy || reference) from samples of the policy, and the controller of its coefficient.

With `r = log p(token) - log q(token)`, p the policy sampled from and q the reference. From "Approximating KL
Divergence" (John Schulman, http://joschu.net/blog/kl-approx.html). In a reward use [`k1`], whose gradient through the
score function is the gradient of the KL; [`k3`] is for watching, or for a loss.
"""

import torch
from torch import Tensor

from .checks import check_shapes

MAX_KL_ERROR = 0.2  # of the controller, as in Ziegler et al.: one rollout far off the target moves it no further


def k1(log_probs: Tensor, ref_log_probs: Tensor) -> Tensor:
    """Returns `r`: unbiased, of either sign at a single token."""
    check_shapes(1, 2, log_probs=log_probs, ref_log_probs=ref_log_probs)
    return log_probs - ref_log_probs


def k3(log_probs: Tensor, ref_log_probs: Tensor) -> Tensor:
    """Returns `exp(-r) - 1 + r`: unbiased and never negative."""
    check_shapes(1, 2, log_probs=log_probs, ref_log_probs=ref_log_probs)
    r = log_probs - ref_log_probs
    return torch.expm1(-r) + r


def adaptive_coefficient(coefficient: float, kl: float, target: float, horizon: float, num_samples: int) -> float:
    """
    Returns the KL coefficient after one update of the proportional controller that steers the KL to a target.

        error = clip(kl / target - 1, -0.2, 0.2)
        coefficient <- coefficient * (1 + error * num_samples / horizon)

    From "Fine-Tuning Language Models from Human Preferences" (Ziegler et al., 2019,
    https://huggingface.co/papers/1909.08593), section 2.2, with its clip of the error at 0.2.

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
    error = min(max(kl / target - 1, -MAX_KL_ERROR), MAX_KL_ERROR)
    return coefficient * (1 + error * num_samples / horizon)
