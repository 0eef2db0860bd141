"""Rewards of completions: their weighted sum, groups whose rewards are equal, and which completions have ended."""

import torch
from torch import Tensor

from .checks import check_shapes


def weighted_rewards(per_func: Tensor, weights: Tensor, clip_range: tuple[float, float] | None = None) -> Tensor:
    """
    Returns the weighted sum of the rewards of each completion, (B,); NaN where no function applied.

    Args:
        per_func (`torch.Tensor` of shape `(B, F)`):
            Rewards of F functions, NaN where one did not apply.
        weights (`torch.Tensor` of shape `(F,)`):
            Weights of the functions.
        clip_range (`tuple[float, float]`, *optional*):
            Bounds of the sum.
    """
    check_shapes(2, per_func=per_func)
    check_shapes(1, weights=weights, per_func_of_a_row=per_func[0])
    rewards = (per_func * weights.to(per_func.device)).nansum(dim=1)
    if clip_range:
        rewards = rewards.clamp(*clip_range)
    return torch.where(per_func.isnan().all(dim=1), torch.nan, rewards)


def equal_groups(rewards: Tensor, num_generations: int, tolerance: float = 0.0) -> Tensor:
    """
    Returns, for each completion, whether all completions of its prompt got the same reward, bool, (B,): the largest is
    above the smallest by at most `tolerance`. NaN (no reward) is left out; with no reward at all they are the same.
    """
    check_shapes(1, rewards=rewards)
    groups = rewards.view(-1, num_generations)
    largest = groups.nan_to_num(nan=-torch.inf).amax(dim=1)
    smallest = groups.nan_to_num(nan=torch.inf).amin(dim=1)
    return (largest - smallest <= tolerance).repeat_interleave(num_generations)


def ended(completion_ids: Tensor, mask: Tensor, eos_token_ids: list[int]) -> Tensor:
    """Returns which of the completions (B, T) contain an EOS where the mask is 1: bool, (B,)."""
    check_shapes(2, completion_ids=completion_ids, mask=mask)
    is_eos = torch.isin(completion_ids, torch.tensor(eos_token_ids, device=completion_ids.device))
    return (is_eos & mask.bool()).any(dim=1)
