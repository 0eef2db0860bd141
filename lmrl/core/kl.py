"""Estimators of KL(policy || reference) from samples of the policy, and the controller of its coefficient.

Below, `r = log p(token) - log q(token)`, where p is the policy that sampled and q the reference. See "Approximating KL
Divergence" (John Schulman, http://joschu.net/blog/kl-approx.html). As a penalty in the reward use [`k1`]: its policy
gradient is, in expectation, the gradient of the KL. [`k3`] is for monitoring, or for a loss.
"""

import torch
from torch import Tensor

from .checks import check_shapes

MAX_KL_ERROR = 0.2  # clip of the controller's error (Ziegler et al.), so that one rollout far off does not move it far


def k1(log_probs: Tensor, ref_log_probs: Tensor) -> Tensor:
    """Returns `r`: an unbiased estimate, which may be negative at a single token."""
    check_shapes(1, 2, log_probs=log_probs, ref_log_probs=ref_log_probs)
    return log_probs - ref_log_probs


def k3(log_probs: Tensor, ref_log_probs: Tensor) -> Tensor:
    """Returns `exp(-r) - 1 + r`: an unbiased estimate, which is never negative."""
    r = k1(log_probs, ref_log_probs)
    return torch.expm1(-r) + r


def adaptive_coefficient(coefficient: float, kl: float, target: float, horizon: float, num_samples: int) -> float:
    """
    Returns the KL coefficient after one update of the proportional controller that steers the KL to a target.

        error = clip(kl / target - 1, -0.2, 0.2)
        coefficient <- coefficient * (1 + error * num_samples / horizon)

    From "Fine-Tuning Language Models from Human Preferences" (Ziegler et al., 2019,
    https://huggingface.co/papers/1909.08593), section 2.2, with its clip of the error at 0.2. `kl`, the mean of the
    rollout of all processes, and `target` (> 0) are in nats per completion; `num_samples` is the number of completions
    in that rollout, and `horizon` (> 0) the number after which the coefficient has changed by the full factor
    `1 + error`. The coefficient stays above 0 as long as `num_samples < 5 * horizon`.
    """
    error = min(max(kl / target - 1, -MAX_KL_ERROR), MAX_KL_ERROR)
    return coefficient * (1 + error * num_samples / horizon)
