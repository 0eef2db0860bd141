"""Baselines of REINFORCE: the reward to expect of a completion before it is seen. The caller subtracts it.

A baseline that does not depend on the completion it is subtracted from leaves the expected gradient as it is and
lowers its variance: "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning"
(Williams, 1992, https://link.springer.com/article/10.1007/BF00992696). A reward of NaN means "could not be scored":
it is left out of every baseline.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .checks import check_shapes
from .masking import VARIANCE_EPSILON


def batch_mean(rewards: Tensor) -> Tensor:
    """
    Returns the mean reward of the batch, for every completion.

    It contains the completion's own reward, which shrinks the expected gradient by the factor `1 - 1/B`.
    """
    return group_mean(rewards, len(rewards))


def leave_one_out(rewards: Tensor, num_generations: int) -> Tensor:
    """
    Returns, for each completion, the mean reward of the *other* completions of its prompt.

        b_i = sum_{j != i} r_j / (G - 1)

    From "Buy 4 REINFORCE Samples, Get a Baseline for Free!" (Kool et al., 2019,
    https://openreview.net/forum?id=r1lgTGL5DE) and "Back to Basics" (Ahmadian et al., 2024,
    https://huggingface.co/papers/2402.14740).

    The rewards (B,) are those of the G = `num_generations` completions of a prompt side by side, G at least 2. What is
    returned is (B,), too; NaN where no other completion of the prompt could be scored.
    """
    check_shapes(1, rewards=rewards)
    groups = rewards.view(-1, num_generations)
    scored = (~groups.isnan()).int()
    others = groups.nansum(dim=1, keepdim=True) - groups.nan_to_num(0.0)
    return _without_rounding(others / (scored.sum(dim=1, keepdim=True) - scored), groups)


def group_mean(rewards: Tensor, num_generations: int) -> Tensor:
    """
    Returns, for each completion, the mean reward of all G completions of its prompt, as in GRPO ("DeepSeekMath", Shao
    et al., 2024, https://huggingface.co/papers/2402.03300).

    It contains the completion's own reward, which shrinks the expected gradient by the factor `1 - 1/G`.
    """
    check_shapes(1, rewards=rewards)
    groups = rewards.view(-1, num_generations)
    return _without_rounding(groups.nanmean(dim=1, keepdim=True).expand_as(groups), groups)


def shrinkage(rewards: Tensor, num_generations: int) -> Tensor:
    """
    Returns, for each completion, the mean of the others of its prompt, drawn towards the mean of the other prompts.

        b_i = m_i + w_i (M - m_i),   w_i = v_i / (v_i + d)

    m_i is [`leave_one_out`], M the mean of the other prompts' means, v_i the variance of m_i, and d the mean square of
    the distance of M from the reward to expect. Both are estimated on other prompts, so that nothing in b_i depends on
    the completion. w_i makes the error of b_i least: 0 where prompts differ much more than completions of a prompt do,
    1 where they do not differ, or have one completion each. After "Shrinking the Variance" (Zeng et al., 2025,
    https://huggingface.co/papers/2511.03710).
    """
    alone = leave_one_out(rewards, num_generations).view(-1, num_generations)
    origin = rewards.nan_to_num(nan=torch.inf).amin()
    groups = rewards.view_as(alone) - origin  # so that equal rewards leave no rounding
    counts = (~groups.isnan()).sum(dim=1, keepdim=True)
    means = groups.nanmean(dim=1, keepdim=True)
    variances = (groups - means).square().nansum(dim=1, keepdim=True) / (counts - 1).clamp(min=0)  # NaN without two
    mean = _mean_of_others(means)
    mean_square = _mean_of_others(means.square())
    within = _mean_of_others(variances)
    share = _mean_of_others(1 / counts)
    prompts = (~means.isnan()).sum() - (~means.isnan()).int()
    between = (mean_square - mean.square()).clamp(min=0) * prompts / (prompts - 1)
    distance = (between - within * share).clamp(min=0) + between / prompts
    noise = within / (counts - 1)
    weight = (noise / (noise + distance)).nan_to_num(0.0)  # 0 where other prompts are too few to estimate it
    shrunk = alone + weight * (mean - (alone - origin)).nan_to_num(0.0)
    return torch.where(alone.isnan(), mean + origin, shrunk).reshape(-1)


def _mean_of_others(values: Tensor) -> Tensor:
    """Returns, for the values of prompts, (P, 1), the mean of the finite values of the other prompts, (P, 1)."""
    others = values.T.repeat(len(values), 1).fill_diagonal_(torch.nan)
    return others.where(others.isfinite(), torch.nan).nanmean(dim=1, keepdim=True)


def _without_rounding(means: Tensor, groups: Tensor) -> Tensor:
    """Returns the means of groups, (P, G), as (B,); of a group of equal rewards just that reward, without rounding."""
    smallest = groups.nan_to_num(nan=torch.inf).amin(dim=1, keepdim=True)
    is_equal = smallest == groups.nan_to_num(nan=-torch.inf).amax(dim=1, keepdim=True)
    return torch.where(is_equal & ~means.isnan(), smallest, means).reshape(-1)


def group_std(rewards: Tensor, num_generations: int) -> Tensor:
    """
    Returns, for each completion, the standard deviation (divisor n - 1) of the rewards of its prompt's G completions,
    with the epsilon of [`standardize`] added to the variance. With G = B it is that of the batch.

    Infinite where all rewards of a prompt are equal, so that what is divided by it is 0: equal rewards have no scale.
    """
    check_shapes(1, rewards=rewards)
    groups = rewards.view(-1, num_generations)
    scored = (~groups.isnan()).sum(dim=1)
    squares = (groups - group_mean(rewards, num_generations).view_as(groups)).square().nansum(dim=1)
    std = (squares / (scored - 1).clamp(min=1) + VARIANCE_EPSILON).sqrt()
    return torch.where(squares > 0, std, torch.inf).repeat_interleave(num_generations)


def moving_average(rewards: Tensor, average: Tensor | None) -> Tensor:
    """
    Returns the average over the rollouts *before* this one, for every completion.

    `average` is the scalar that [`update_average`] returned. It is `None` or NaN until a rollout has had a reward;
    then this rollout's own mean is returned, as by [`batch_mean`].
    """
    if average is None or average.isnan().all():
        return batch_mean(rewards)
    check_shapes(1, rewards=rewards)
    check_shapes(0, average=average)
    return average.expand_as(rewards)


def update_average(average: Tensor | None, rewards: Tensor, decay: float) -> Tensor:
    """
    Returns the scalar average that [`moving_average`] reads, updated by the rewards of one more rollout.

        b <- decay * b + (1 - decay) * mean(r)

    `average` is `None` or NaN until a rollout has a reward, whose mean it then becomes. It stays as it is where all
    rewards of this rollout, (B,), are NaN. `decay` is the share of the past that is kept, in [0, 1).
    """
    check_shapes(1, rewards=rewards)
    mean = torch.nanmean(rewards)
    if average is None or average.isnan().all():
        average = mean
    check_shapes(0, average=average)
    return decay * average + (1 - decay) * mean.nan_to_num(average.item())


# The baselines by their names in a configuration. Each is called with `rewards` (B,), the completions of a prompt side
# by side, and with all of these keywords: `num_generations`, `average` (of the rollouts before) and `greedy_rewards`
# (B,), the rewards of the greedy completions of the same prompts, which are the self-critical baseline of
# "Self-Critical Sequence Training for Image Captioning" (Rennie et al., 2017, https://huggingface.co/papers/1612.00563).
BASELINES: dict[str, Callable[..., Tensor]] = {
    "none": lambda rewards, **_: torch.zeros_like(rewards),
    "batch_mean": lambda rewards, **_: batch_mean(rewards),
    "group_mean": lambda rewards, *, num_generations, **_: group_mean(rewards, num_generations),
    "leave_one_out": lambda rewards, *, num_generations, **_: leave_one_out(rewards, num_generations),
    "shrinkage": lambda rewards, *, num_generations, **_: shrinkage(rewards, num_generations),
    "moving_average": lambda rewards, *, average, **_: moving_average(rewards, average),
    "greedy": lambda rewards, *, greedy_rewards, **_: greedy_rewards,
}
