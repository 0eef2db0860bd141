"""Importance sampling: the ratio between the policy that is trained and the one that has drawn the tokens."""

import torch
from torch import Tensor

from .checks import check_shapes
from .masking import masked_sum

# TRL's names: the ratio is that of a token or of a sequence; beyond its bounds it is truncated to the bound, or 0.
IMPORTANCE_MODES = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")


def importance_ratio(
    log_probs: Tensor,
    sampling_log_probs: Tensor,
    mask: Tensor,
    mode: str = "sequence_truncate",
    low: float | None = None,
    high: float | None = None,
) -> tuple[Tensor, Tensor]:
    """
    Returns the importance ratio of what was drawn, its probability under the trained policy divided by that under the
    sampler, and a mask of where the ratio was out of bounds: (B,) each for sequences, (B, T) for tokens.

    If advantages are multiplied by the unbounded ratio of their sequence, the expected gradient is that of the trained
    policy, whatever was sampled from. The ratio of a token ignores those before it: biased, but with less variance.
    Bounds as in "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training" (Yao et al., 2025,
    https://fengyao.notion.site/off-policy-rl), with the modes of TRL's GRPO.

    Args:
        log_probs, sampling_log_probs (`torch.Tensor` of shape `(B, T)`):
            Log-probabilities under the two policies. Where the second is NaN (unknown), they count as equal.
        mode (`str`, *optional*, defaults to `"sequence_truncate"`):
            One of `IMPORTANCE_MODES`. Beyond the bounds a ratio becomes the bound (truncate), or 0 (mask).
        low, high (`float`, *optional*):
            Bounds of the ratio; `None` for none.
    """
    check_shapes(2, log_probs=log_probs, sampling_log_probs=sampling_log_probs, mask=mask)
    difference = torch.where(mask.bool(), log_probs - sampling_log_probs, 0.0).nan_to_num(nan=0.0)
    if mode.startswith("sequence"):
        difference = masked_sum(difference, mask, dim=1)
    ratio = difference.exp()
    bounded = ratio if low is None and high is None else ratio.clamp(low, high)
    is_outside = bounded != ratio
    if mode.endswith("mask"):
        bounded = ratio.masked_fill(is_outside, 0.0)
    return bounded, is_outside
