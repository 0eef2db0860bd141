"""More epochs of a learned critic on the states of a rollout, which the policy's pass has computed already."""

import torch
from accelerate import Accelerator
from torch import Tensor

from lmrl import core

from .learned import Critic


def train_on_states(
    critic: Critic,
    states: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    accelerator: Accelerator,
    epochs: int,
    learning_rate: float,
    cliprange: float,
) -> None:
    """
    Trains the head of a critic on the policy's states. It does not change these, so the policy need not be run.

    An epoch is one step of Adam (Kingma and Ba, 2015, https://huggingface.co/papers/1412.6980) on the tokens of all
    processes, and every process must call this. Adam's averages begin anew with each rollout, so checkpoints need not
    have them. The loss is [`~lmrl.core.clipped_value_loss`], averaged over the tokens.

    Args:
        states (`torch.Tensor` of shape `(B, T, D)`):
            States before each token.
        old_values, returns (`torch.Tensor` of shape `(B, T)`):
            Values of the rollout, and what they should have been.
        mask (`torch.Tensor` of shape `(B, T)`):
            1 where a token counts.
    """
    weights = [weight for weight in critic.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=learning_rate)
    returns = returns.nan_to_num(0.0)  # of completions without a reward, which are masked out
    tokens = accelerator.reduce(mask.sum(), reduction="sum").clamp(min=1)
    kept = [weight.grad for weight in weights]  # gradients accumulated so far
    for _ in range(epochs):
        with torch.enable_grad():
            per_token = core.clipped_value_loss(critic.head(states), old_values, returns, cliprange)
            total = core.masked_sum(per_token, mask) / tokens
        # Not `backward`, which has DDP average the gradients of all weights.
        for weight, gradient in zip(weights, torch.autograd.grad(total, weights), strict=True):
            weight.grad = accelerator.reduce(gradient, reduction="sum")
        optimizer.step()
    for weight, earlier in zip(weights, kept, strict=True):
        weight.grad = earlier
