"""The losses, element by element, and their averages over tokens."""

import torch
from torch import Tensor

from .checks import check_shapes
from .masking import masked_mean, masked_sum


def reinforce_loss(log_probs: Tensor, advantages: Tensor) -> Tensor:
    """
    Returns `-A * log p`, whose gradient is, in expectation, that of the expected reward with its sign reversed.

    From "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning" (Williams, 1992,
    https://link.springer.com/article/10.1007/BF00992696). Its value does not measure progress: watch the reward.
    """
    check_shapes(1, 2, log_probs=log_probs, advantages=advantages)
    return -advantages * log_probs


def clipped_policy_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, epsilon_low: float = 0.2, epsilon_high: float = 0.2
) -> Tensor:
    """
    Returns the clipped surrogate of PPO.

        ratio = exp(log_probs - old_log_probs)
        loss = -min(ratio * A, clip(ratio, 1 - epsilon_low, 1 + epsilon_high) * A)

    From "Proximal Policy Optimization Algorithms" (Schulman et al., 2017, https://huggingface.co/papers/1707.06347),
    equation 7; its gradient at ratio 1 is that of [`reinforce_loss`].

    Args:
        epsilon_low (`float`, *optional*, defaults to `0.2`):
            How far below 1 the ratio may go, in [0, 1].
        epsilon_high (`float`, *optional*, defaults to `0.2`):
            How far above 1 the ratio may go, >= 0.
    """
    check_shapes(1, 2, log_probs=log_probs, old_log_probs=old_log_probs, advantages=advantages)
    ratio = torch.exp(log_probs - old_log_probs)
    clipped = ratio.clamp(1 - epsilon_low, 1 + epsilon_high)
    return -torch.min(ratio * advantages, clipped * advantages)


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, cliprange: float = 0.2) -> Tensor:
    """
    Returns half the squared error of the values, or that of the clipped values where it is larger.

        clipped = old_values + clip(values - old_values, -cliprange, cliprange)
        loss = max((values - returns)^2, (clipped - returns)^2) / 2

    As in OpenAI's baselines, described in "The N+ Implementation Details of RLHF with PPO" (Huang et al., 2024,
    https://huggingface.co/papers/2403.17031).

    Args:
        old_values (`torch.Tensor`, shape of `values`):
            Values at the time of the rollout; detached.
        returns (`torch.Tensor`, same shape):
            What the values should have been; detached.
        cliprange (`float`, *optional*, defaults to `0.2`):
            How far the values may move from the old ones, in units of the reward, > 0.
    """
    check_shapes(1, 2, values=values, old_values=old_values, returns=returns)
    clipped = old_values + (values - old_values).clamp(-cliprange, cliprange)
    return torch.max((values - returns).square(), (clipped - returns).square()) / 2


def average_tokens(per_token: Tensor, mask: Tensor, loss_type: str, mean_length: Tensor, max_length: int) -> Tensor:
    """
    Returns the average of per-token losses (B, T) by a rule of TRL's, a scalar. Its mean over the batches of a rollout
    is the average over the rollout; `mean_length` is that of the completions of the rollout.

        dapo:     sum over all tokens / (B * mean_length), each token weighs the same
        grpo:     mean over completions of the mean over their tokens
        dr_grpo:  sum over all tokens / (B * max_length)

    From the papers https://huggingface.co/papers/2503.14476 (DAPO), 2402.03300 (GRPO) and 2503.20783 (Dr. GRPO).
    """
    if loss_type == "grpo":
        return masked_mean(per_token, mask, dim=1).mean()
    length = mean_length if loss_type == "dapo" else max_length
    return masked_sum(per_token, mask) / (len(mask) * length)
