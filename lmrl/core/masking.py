"""Sums, means and moments over the tokens that count.

Masked positions are replaced by `where`, never multiplied by 0, so NaN and infinities on padding leave no trace.
"""

import torch
from torch import Tensor

from .checks import check_shapes

VARIANCE_EPSILON = 1e-8  # under the square root: equal values, whose variance is 0, become 0 and not NaN


def masked_sum(values: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Returns the sum of the values where the mask is 1; an empty selection sums to 0."""
    check_shapes(1, 2, values=values, mask=mask)
    kept = torch.where(mask.bool(), values, 0)
    return kept.sum() if dim is None else kept.sum(dim)


def masked_mean(values: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Returns the mean of the values where the mask is 1; the mean of an empty selection is 0."""
    total = masked_sum(values, mask, dim)
    count = mask.sum() if dim is None else mask.sum(dim)
    return total / count.clamp(min=1)  # an empty selection has the sum 0: 0 / 1


def masked_moments(values: Tensor, mask: Tensor) -> Tensor:
    """
    Returns the count, the sum and the sum of squares of the values where the mask is 1.

    Unlike means and variances, these three can be summed over processes: reduce them, then call [`standardize`].

    Returns:
        `torch.Tensor` of shape `(3,)`, float64, so that the variance survives the subtraction of two large sums
        (float32 on Apple's GPUs, which have no other).
    """
    check_shapes(1, 2, values=values, mask=mask)
    values = values.float() if values.device.type == "mps" else values.double()
    return torch.stack([mask.sum().to(values.dtype), masked_sum(values, mask), masked_sum(values**2, mask)])


def standardize(values: Tensor, moments: Tensor, epsilon: float = VARIANCE_EPSILON) -> Tensor:
    """
    Returns `(values - mean) / sqrt(variance + epsilon)` for the mean and variance that the moments describe, in the
    shape and dtype of the values.

    The variance is the unbiased one (divided by n - 1); `epsilon` is added to it, so that equal values become 0. With
    fewer than two values there is no variance, and the values are returned as they are. `moments`, (3,), are those of
    [`masked_moments`], summed over all processes.
    """
    check_shapes(1, 2, values=values)
    check_shapes(1, moments=moments)
    count, total, squares = moments.unbind()
    if count < 2:
        return values
    mean = total / count
    variance = ((squares - total * mean) / (count - 1)).clamp(min=0)  # rounding may make it negative for equal values
    return (values - mean.to(values.dtype)) * torch.rsqrt(variance + epsilon).to(values.dtype)


def last_index(mask: Tensor) -> Tensor:
    """Returns the index of the last position where a mask (B, T) is 1, (B,) and int64; -1 for a row without any."""
    check_shapes(2, mask=mask)
    positions = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return (positions * mask.bool()).amax(dim=1) - 1
