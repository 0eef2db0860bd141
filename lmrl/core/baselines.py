"""Baselines of REINFORCE: what to expect of a completion before seeing it. The caller subtracts.

A baseline that does not depend on the completion it is subtracted from leaves the expected gradient as it is and
lowers its variance: "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning"
(Williams, 1992, https://link.springer.com/article/10.1007/BF00992696). A reward of NaN means "could not be scored":
it is left out of every baseline.
"""

import torch
from torch import Tensor


def no_baseline(rewards: Tensor) -> Tensor:
    """
    Returns zeros.

    Args:
        rewards (`torch.Tensor` of shape `(B,)`):
            Reward of each completion.

    Returns:
        `torch.Tensor` of shape `(B,)`.
    """
    return torch.zeros_like(rewards)


def batch_mean(rewards: Tensor) -> Tensor:
    """
    Returns the mean reward of the batch, for every completion.

    It contains the completion's own reward, which shrinks the expected gradient by the factor `1 - 1/B`.

    Args:
        rewards (`torch.Tensor` of shape `(B,)`):
            Reward of each completion, over all processes.

    Returns:
        `torch.Tensor` of shape `(B,)`.
    """
    return torch.nanmean(rewards).expand_as(rewards)


def leave_one_out(rewards: Tensor, num_generations: int) -> Tensor:
    """
    Returns, for each completion, the mean reward of the *other* completions of its prompt.

        b_i = sum_{j != i} r_j / (G - 1)

    From "Buy 4 REINFORCE Samples, Get a Baseline for Free!" (Kool et al., 2019,
    https://openreview.net/forum?id=r1lgTGL5DE) and "Back to Basics" (Ahmadian et al., 2024,
    https://huggingface.co/papers/2402.14740).

    Args:
        rewards (`torch.Tensor` of shape `(B,)`):
            Reward of each completion, the G completions of a prompt side by side.
        num_generations (`int`):
            G, at least 2.

    Returns:
        `torch.Tensor` of shape `(B,)`; NaN where no other completion of the prompt could be scored.
    """
    groups = rewards.view(-1, num_generations)
    scored = (~groups.isnan()).sum(dim=1, keepdim=True)
    others = groups.nansum(dim=1, keepdim=True) - groups.nan_to_num(0.0)
    return (others / (scored - (~groups.isnan()).int())).view(-1)


def moving_average(rewards: Tensor, average: Tensor | None, decay: float) -> tuple[Tensor, Tensor]:
    """
    Returns the baseline from the rollouts *before* this one, and the average with this one counted in.

        b <- decay * b + (1 - decay) * mean(r)

    The very first rollout has no past and uses its own mean, as [`batch_mean`] does.

    Args:
        rewards (`torch.Tensor` of shape `(B,)`):
            Reward of each completion, over all processes.
        average (`torch.Tensor`, *optional*):
            Scalar average so far; `None` before the first rollout.
        decay (`float`):
            Share of the past that is kept, in [0, 1).

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: the baseline, of shape `(B,)`, and the new scalar average.
    """
    mean = torch.nanmean(rewards)
    average = mean if average is None else average
    return average.expand_as(rewards), decay * average + (1 - decay) * mean.nan_to_num(average.item())


def greedy(greedy_rewards: Tensor) -> Tensor:
    """
    Returns the reward of the greedy completion of the same prompt, the self-critical baseline.

    From "Self-Critical Sequence Training for Image Captioning" (Rennie et al., 2017,
    https://huggingface.co/papers/1612.00563).

    Args:
        greedy_rewards (`torch.Tensor` of shape `(B,)`):
            Reward of the completion that greedy decoding gives for the prompt of each completion.

    Returns:
        `torch.Tensor` of shape `(B,)`.
    """
    return greedy_rewards
