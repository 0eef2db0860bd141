"""NCCL between pretended GPUs: a process group that refuses a tensor of the CPU, and communicates by gloo."""

from datetime import timedelta
from typing import Any

import torch
from torch._C._distributed_c10d import ProcessGroup, ProcessGroupGloo, Store, Work
from torch.distributed import ReduceOp

Tensors = list[torch.Tensor]


def on_host(tensor: torch.Tensor) -> torch.Tensor:
    """Returns a tensor that shares its memory with one of a GPU."""
    if tensor.device.type != "cuda":
        raise RuntimeError(f"No backend type associated with device type {tensor.device.type}")
    if not tensor.is_contiguous():
        raise RuntimeError("Tensors must be contiguous")
    return torch.ops.pretended.on_host(tensor.detach())


def all_on_host(tensors: Tensors) -> Tensors:
    """Returns tensors that share their memory with those of a GPU."""
    return [on_host(tensor) for tensor in tensors]


class ProcessGroupNCCL(ProcessGroup):
    """What NCCL does for DDP, FSDP2, DeepSpeed and Accelerate."""

    _device_types = [torch.device("cuda")]

    class Options:
        """Those that PyTorch sets."""

        _timeout: timedelta
        is_high_priority_stream = False

    def __init__(self, store: Store, rank: int, size: int, options: Options) -> None:
        super().__init__(rank, size)
        self.gloo = ProcessGroupGloo(store, rank, size, timeout=options._timeout)

    def getBackendName(self) -> str:
        return "nccl"

    def setGroupName(self, name: str) -> None:
        self.given_name = name

    def getGroupName(self) -> str:
        return self.given_name

    def _get_backend(self, device: torch.device) -> ProcessGroupGloo:
        return self.gloo

    def _set_sequence_number_for_group(self) -> None: ...

    def barrier(self, opts: Any = None) -> Work:
        return self.gloo.barrier()

    def broadcast(self, tensors: Tensors, opts: Any) -> Work:
        return self.gloo.broadcast(all_on_host(tensors), opts)

    def allreduce(self, tensors: Tensors, opts: Any) -> Work:
        hosts = all_on_host(tensors)
        if opts.reduceOp != ReduceOp.AVG:
            return self.gloo.allreduce(hosts, opts)
        opts.reduceOp = ReduceOp.SUM  # gloo has no average
        work = self.gloo.allreduce(hosts, opts)
        work.wait()
        for host in hosts:
            host.div_(self.size())
        return work

    def allgather(self, outputs: list[Tensors], inputs: Tensors, opts: Any = None) -> Work:
        return self.gloo.allgather([all_on_host(output) for output in outputs], all_on_host(inputs))

    def all_gather_single(self, output: torch.Tensor, source: torch.Tensor, opts: Any = None) -> Work:
        parts = list(on_host(output).view(self.size(), -1).unbind())
        own = on_host(source).reshape(-1).clone()  # the input may be a part of the output
        work = self.gloo.allgather([parts], [own])
        work.wait()
        return work

    def reduce_scatter_single(self, output: torch.Tensor, source: torch.Tensor, opts: Any) -> Work:
        summed = on_host(source).clone()
        work = self.gloo.allreduce([summed])
        work.wait()
        if opts.reduceOp == ReduceOp.AVG:
            summed.div_(self.size())
        on_host(output).view(-1).copy_(summed.view(self.size(), -1)[self.rank()])
        return work

    def all_gather_single_coalesced(self, outputs: Tensors, inputs: Tensors, opts: Any = None) -> Work:
        for output, source in zip(outputs, inputs, strict=True):
            work = self.all_gather_single(output, source)
        return work
