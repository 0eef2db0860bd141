"""What a block of code asks of a GPU: kernels, waits for it, and copies to it."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

COPIES = {"aten::copy_", "aten::_to_copy"}
# Operators whose result, or its size, the CPU has to know.
READS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::_unique2"}


def tensors_of(values: Any) -> list[torch.Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


class GPUWork(TorchDispatchMode):
    """
    Counts while it is entered.

    Attributes:
        kernels (`int`):
            Operators on the GPU that compute, which are about as many kernels.
        waits (`int`):
            How often the CPU waits until the GPU has done all.
        uploads (`int`):
            Copies from the CPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels = 0
        self.waits = 0
        self.uploads = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        read = tensors_of((args, kwargs))
        written = tensors_of(result)
        name = function._schema.name
        devices = {tensor.device.type for tensor in (*read, *written)}
        by_mask = name == "aten::index" and any(tensor.dtype == torch.bool for tensor in read[1:])
        if "cuda" not in devices or function.is_view:
            return result
        if name in COPIES and len(devices) == 2:
            self.uploads += written[0].is_cuda
            self.waits += not written[0].is_cuda
        elif name in READS or by_mask:
            self.waits += 1
        else:
            self.kernels += 1
        return result
