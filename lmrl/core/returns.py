"""From a reward per completion to rewards, returns and advantages per token.

Indices: `values[:, t]` is the value of the state *before* token t, `V(s_t)`, and `token_rewards[:, t]` is the reward
received for token t. The state after the last real token has the value 0.
"""

import torch
from torch import Tensor

from .checks import check_shapes
from .masking import last_index


def place_at_end(rewards: Tensor, mask: Tensor) -> Tensor:
    """
    Returns token rewards, (B, T): the reward of each completion at its last real token, and 0 everywhere else.

    The last real token is the EOS, or, without one, the last token sampled. A row without any token gets no reward.
    """
    check_shapes(1, rewards=rewards)
    check_shapes(2, mask=mask)
    at_end = torch.arange(mask.shape[1], device=mask.device) == last_index(mask).unsqueeze(1)
    return torch.where(at_end, rewards.unsqueeze(1), 0)


def shaped_rewards(rewards: Tensor, potentials: Tensor, mask: Tensor, gamma: float = 1.0) -> Tensor:
    """
    Returns dense token rewards, (B, T): each token gets what it adds to a potential, and the last one the rest.

        r_t = gamma * Phi(s_{t+1}) - Phi(s_t), plus the completion's reward at its last real token

    Here Phi is the potential minus that of the state before the first token, and 0 after the last token. So the
    discounted sum over the tokens is the same as with [`place_at_end`], and the order of policies from better to worse
    does not change. From "Policy Invariance under Reward Transformations" (Ng, Harada and Russell, 1999).

    Args:
        rewards (`torch.Tensor` of shape `(B,)`):
            Reward of each completion.
        potentials (`torch.Tensor` of shape `(B, T)`):
            Potential of the state before each token.
        gamma (`float`, *optional*, defaults to `1.0`):
            Discount in [0, 1].
    """
    check_shapes(2, potentials=potentials, mask=mask)
    potentials = torch.where(mask.bool(), potentials - potentials[:, :1], 0)
    following = torch.cat([potentials[:, 1:], torch.zeros_like(potentials[:, :1])], dim=1)
    return place_at_end(rewards, mask) + gamma * following - potentials


def discounted_returns(token_rewards: Tensor, mask: Tensor, gamma: float = 1.0) -> Tensor:
    """Returns `R_t = r_t + gamma * R_{t+1}`, the reward-to-go of each token, with a discount in [0, 1]."""
    zeros = torch.zeros_like(token_rewards)
    return generalized_advantages(token_rewards, zeros, mask, gamma=gamma, lam=1.0)


def generalized_advantages(
    token_rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95
) -> Tensor:
    """
    Returns the generalized advantage estimates, (B, T).

        delta_t = r_t + gamma * V(s_{t+1}) - V(s_t)
        A_t = delta_t + gamma * lam * A_{t+1}

    with `V = A = 0` after the last real token, also if the completion was cut off there: an episode has at most T
    tokens. From "High-Dimensional Continuous Control Using Generalized Advantage Estimation" (Schulman et al., 2015,
    https://huggingface.co/papers/1506.02438), equation 16. The returns that a critic learns are `A + values`.

    Args:
        mask (`torch.Tensor` of shape `(B, T)`):
            1 where a token counts. Elsewhere rewards and values are ignored, and the advantages are 0.
        gamma (`float`, *optional*, defaults to `1.0`):
            Discount in [0, 1].
        lam (`float`, *optional*, defaults to `0.95`):
            Lambda in [0, 1]: 1 gives the Monte Carlo return minus the value, 0 the one-step TD error.
    """
    check_shapes(2, token_rewards=token_rewards, values=values, mask=mask)
    kept = mask.bool()
    token_rewards = torch.where(kept, token_rewards, 0)
    values = torch.where(kept, values, 0)
    advantages = torch.zeros_like(values)
    next_value = torch.zeros_like(values[:, 0])
    next_advantage = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = token_rewards[:, t] + gamma * next_value - values[:, t]
        advantages[:, t] = torch.where(kept[:, t], delta + gamma * lam * next_advantage, 0)
        next_value = values[:, t]
        next_advantage = advantages[:, t]
    return advantages
