"""The check of shapes that every function of this package makes."""

from torch import Tensor


def check_shapes(*ranks: int, **tensors: Tensor) -> None:
    """
    Raises an error unless the tensors have one of the ranks, and all of them the same shape.

    Tensors of unlike shapes would broadcast, and a loss of `(B,)` advantages against `(B, T)` log-probabilities is
    a number like any other. The `ValueError` names them by the arguments that they are.
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
