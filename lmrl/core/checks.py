"""The shape check that functions of this package run on their tensors."""

from torch import Tensor


def check_shapes(*ranks: int, **tensors: Tensor) -> None:
    """
    Raises an error unless each tensor has one of the ranks, and all tensors have the same shape.

    Tensors of different shapes could broadcast: advantages (B,) with log-probabilities (B, T) may give a loss that is
    wrong and looks right. The `ValueError` names each tensor by the keyword it is passed under.
    """
    first_name, first = next(iter(tensors.items()))
    for name, tensor in tensors.items():
        if tensor.dim() not in ranks:
            allowed = " or ".join(str(rank) for rank in ranks)
            raise ValueError(f"`{name}` must have {allowed} dimensions, got shape {tuple(tensor.shape)}.")
        if tensor.shape != first.shape:
            raise ValueError(
                f"`{name}` must have the shape of `{first_name}`, {tuple(first.shape)}, got {tuple(tensor.shape)}."
            )
