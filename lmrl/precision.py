"""Precision of 16 bits: how fast a CPU multiplies in it, and which attention can train in it on a GPU."""

import re
import time

import torch

BF16_PAYS = 1.25
"""Speed-up of a product of matrices from which mixed precision is faster: it casts weights and states all the time."""

# Size of square matrices: three products in float32 take some milliseconds, and start no more threads than a step.
_SIZE = 384
_TRIALS = 5


def bf16_speedup() -> float:
    """
    Returns how many times as fast this CPU multiplies matrices in bfloat16 as in float32, measured in milliseconds.

    CPUs with AMX or AVX512-BF16 are 2 to 10 times as fast; CPUs without have to convert, and are far slower.
    """
    fastest = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones((_SIZE, _SIZE), dtype=dtype)
        seconds = []
        for _ in range(_TRIALS):  # the first one warms up; the fastest is what other work on the machine left alone
            started = time.perf_counter()
            torch.mm(matrix, matrix)
            seconds.append(time.perf_counter() - started)
        fastest[dtype] = min(seconds)
    return fastest[torch.float32] / fastest[torch.bfloat16]


def avoid_cudnn_attention() -> None:
    """
    Makes PyTorch's attention run other kernels than cuDNN's, in this process.

    On Hopper GPUs cuDNN's is PyTorch's first choice in 16 bits. With a mask its gradients are NaN at 64, 192, ...
    positions (64 more than a multiple of 128) if a token attends to nothing, as padding on the left does:
    https://github.com/pytorch/pytorch/issues/196678, of PyTorch 2.11, https://github.com/huggingface/trl/issues/7181.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def check_attention(implementation: str | None, dtype: str | torch.dtype) -> None:
    """Raises a `ValueError` for flash attention, which computes in 16 bits alone, on weights in float32."""
    if dtype in ("float32", torch.float32) and re.search("flash[-_]att", implementation or ""):
        raise ValueError(
            f"`attn_implementation` must be 'sdpa' or 'eager' for weights in float32, got {implementation!r}. Flash "
            "attention computes in 16 bits alone: give `dtype` bfloat16, or leave `attn_implementation` out."
        )
