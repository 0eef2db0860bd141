"""Flash attention in plain torch, for tests: the interface of transformers' kernels, with no mask of pairs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask


class TorchFlash:
    """
    Attention to each sequence alone, which is found as transformers finds it: by a mask of padding, by bounds in a
    row, or by positions in a row that begin anew. It keeps where those in a row begin, and their positions.
    """

    def __init__(self, separates: bool = True) -> None:
        self.separates = separates
        self.bounds: list[list[int]] = []
        self.positions: list[list[int]] = []

    def __call__(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        position_ids: Tensor | None = None,
        cu_seq_lens_q: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        length = key.shape[2]
        earlier = length - query.shape[2]  # keys in a cache
        rows = torch.arange(length, device=query.device).expand(len(query), -1)
        if not self.separates:
            cu_seq_lens_q = None
            position_ids = None
        if attention_mask is not None:
            assert cu_seq_lens_q is None
            assert attention_mask.shape == rows.shape
            sequences = [(row, places[attention_mask[row].bool()]) for row, places in enumerate(rows)]
        elif cu_seq_lens_q is not None:
            assert cu_seq_lens_q.dtype == torch.int32
            sequences = [(0, places) for places in rows[0].split(cu_seq_lens_q.diff().tolist())]
        elif len(query) == 1 and position_ids is not None and not earlier:
            # As transformers finds them where no bounds arrive.
            starts = [*(position_ids[0] == 0).nonzero().flatten().tolist(), length]
            sequences = [(0, rows[0, slice(*bounds)]) for bounds in pairwise(starts)]
        else:
            sequences = list(enumerate(rows))
        if len(sequences) > len(query):
            assert [len(query), length] == [1, sum(len(places) for _, places in sequences)]
            self.bounds.append([int(places[0]) for _, places in sequences])
            self.positions.append([] if position_ids is None else position_ids[0].tolist())
        key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], dim=1) for part in (key, value))
        outputs = torch.zeros_like(query)
        for row, places in sequences:
            queried = places[places >= earlier]
            scores = query[row][:, queried - earlier] @ key[row][:, places].mT
            scores = scores * (query.shape[-1] ** -0.5 if scaling is None else scaling)
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            distance = queried[:, None] - places
            is_seen = (distance >= 0) & (distance < (sliding_window or len(places)))
            states = scores.masked_fill(~is_seen, -torch.inf).softmax(-1) @ value[row][:, places]
            outputs[row, :, queried - earlier] = states.to(query.dtype)
        return outputs.transpose(1, 2).contiguous(), None


@contextmanager
def registered(
    name: str, separates: bool = True, mask: Callable[..., Any] = flash_attention_mask
) -> Iterator[TorchFlash]:
    """Registers such attention under a name, with the function that makes its masks, for the time of the context."""
    attention = TorchFlash(separates)
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, mask)
    try:
        yield attention
    finally:
        AttentionInterface._global_mapping.pop(name)
        AttentionMaskInterface._global_mapping.pop(name)
