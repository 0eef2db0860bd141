"""Hidden states of a batch, in which the tokens that several sequences begin with are computed once."""

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils import logging

from lmrl.packing import PackedRows, pack
from lmrl.utils import reason_of

from .loading import context_length

logger = logging.get_logger(__name__)

# How far the states of two passes may be apart, in their norm: 16 bits have two or three digits.
_TOLERANCE = 1e-3
_TOLERANCE_IN_16_BITS = 0.05


class StatesBefore:
    """
    Reads the hidden state before each completion token, from one backbone or another. `input_ids` and
    `attention_mask`, (B, L), are prompts, padded on the left, and completions, padded on the right, of width T.
    """

    def __init__(self, input_ids: Tensor, attention_mask: Tensor, completion_length: int) -> None:
        self.input_ids = input_ids
        self.attention_mask = attention_mask
        self.completion_length = completion_length
        self._packed: dict[Any, tuple[PackedRows, Tensor] | None] = {}

    def __call__(self, backbone: nn.Module) -> Tensor:
        """Returns the states of M tokens, (M, D), in the order of `attention_mask[:, -T:]`."""
        packed = self._packed_for(backbone)
        if packed is not None:
            rows, before = packed
            return states_of_rows(backbone, rows).index_select(0, before)
        positions = (self.attention_mask.long().cumsum(1) - 1).clamp(min=0)
        states = run_backbone(backbone, self.input_ids, self.attention_mask, positions)
        return states[:, -self.completion_length - 1 : -1][self.attention_mask[:, -self.completion_length :].bool()]

    def _packed_for(self, backbone: Any) -> tuple[PackedRows, Tensor] | None:
        """Returns what [`_pack`] returns, which is the same for a critic's backbone of the policy's kind."""
        if getattr(backbone, "shares_prompts", None) is None:
            return None
        config = backbone.config.get_text_config()
        options = (config.hidden_size, config._attn_implementation == "eager", backbone.shares_prompts)
        if options not in self._packed:
            self._packed[options] = self._pack(*options)
        return self._packed[options]

    def _pack(self, width: int, is_eager: bool, shared: bool) -> tuple[PackedRows, Tensor] | None:
        """
        Returns the sequences in rows, and the places of the M states in them, (M,), or None if there is nothing to
        save. The last token of a completion is left out, as nothing follows it.
        """
        ids = self.input_ids.cpu()
        mask = self.attention_mask.bool().cpu()
        completed = mask[:, -self.completion_length :]
        lengths = completed.sum(1).tolist()
        follows_padding = (completed & ~mask[:, -self.completion_length - 1 : -1]).any()
        if follows_padding or not any(lengths):
            return None
        used = [row for row, length in enumerate(lengths) if length > 0]
        sequences = [ids[row, mask[row]][:-1].tolist() for row in used]
        # Eager attention keeps weights for the backward pass, of each pair of positions in each head. Otherwise there
        # is but a mask, of no more bytes than a layer's states have numbers.
        pairs = ids.numel() * (ids.shape[1] if is_eager else max(ids.shape[1], width))
        rows = pack(sequences, width, len(ids), ids.shape[1], pairs, shared)
        if rows is None:
            return None
        before = torch.cat([places[-lengths[row] :] for row, places in zip(used, rows.places, strict=True)])
        return rows.to(self.input_ids.device), before.to(self.input_ids.device)


def run_backbone(backbone: nn.Module, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
    """Returns the last hidden states of token ids, (B, L, D), at positions, where the architecture takes them."""
    inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    if "position_ids" in _parameters(type(backbone).forward):
        inputs["position_ids"] = positions
    states: Tensor = backbone(**inputs).last_hidden_state
    return states


@functools.cache
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


@torch.no_grad()
def share_prompts(backbone: PreTrainedModel) -> None:
    """
    Has the scoring pass of a complete backbone, not in its engine yet, compute once what completions begin with.

    It does so where a comparison finds the states of the plain pass: with recurrent layers, or attention that makes
    masks of its own, the plain pass stays, with a line in the log. An architecture that takes no positions (ALiBi) has
    sequences side by side, without padding, but shares nothing.
    """
    training = backbone.training
    backbone.eval()
    reason = _reason_against(backbone)
    backbone.train(training)
    if reason is not None:
        logger.warning(f"{type(backbone).__name__} computes each prompt once per completion: {reason}.")


def _reason_against(backbone: Any) -> str | None:
    """Returns the reason why a backbone shares nothing, or None; sets its `shares_prompts`."""
    backbone.shares_prompts = None
    if getattr(backbone, "_is_stateful", False) or any(isinstance(module, nn.Conv1d) for module in backbone.modules()):
        return "its layers carry a state from token to token"
    implementation = backbone.config.get_text_config()._attn_implementation
    if implementation not in ("sdpa", "eager"):
        return f"its attention is {implementation!r}, which takes no mask of pairs"
    if (context_length(backbone) or 12) < 12:
        return "its context is too short to compare passes"
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(backbone.config.get_text_config().vocab_size, (2, 12), generator=generator)
    ids = prompts.repeat_interleave(4, dim=0).to(backbone.device)
    ids[1::4, 8:] = ids[1::4, 8:].flip(1)
    ids[2::4, 6:] = ids[0::4, :6]
    mask = torch.ones_like(ids)
    mask[:, :2] = (torch.arange(8, device=ids.device) >= 4).long()[:, None]
    mask[3::4, 9:] = 0
    plain = StatesBefore(ids, mask, 6)(backbone)
    tolerance = _TOLERANCE if plain.dtype == torch.float32 else _TOLERANCE_IN_16_BITS
    takes_positions = "position_ids" in _parameters(type(backbone).forward)
    reason = "it takes no positions"
    for shared in (True, False) if takes_positions else (False,):
        backbone.shares_prompts = shared
        try:
            difference = ((StatesBefore(ids, mask, 6)(backbone) - plain).norm() / plain.norm()).item()
        except Exception as error:  # whatever an architecture's own code makes of it
            reason = reason_of(error)
            continue
        if difference <= tolerance:
            return None if shared else reason
        reason = f"its states would differ by {difference:.2g}"
    backbone.shares_prompts = None
    return reason


def share_in_forward(backbone: Any) -> None:
    """
    Has the own forward of a backbone, whose scoring pass shares prompts, compute once what several texts begin with.

    It does so for token ids and a mask of texts, padded on the right, without gradient, where that saves something,
    and returns the states that the forward would, zeros on padding. With any other argument the forward runs as ever.
    """
    inner = backbone.forward
    unread = ("use_cache", "return_dict")

    @functools.wraps(type(backbone).forward)
    def forward(
        self: Any, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **others: Any
    ) -> Any:
        """Returns the last hidden states, (B, L, D), as a model's output."""
        is_other = any(value is not None for name, value in others.items() if name not in unread)
        if input_ids is None or attention_mask is None or is_other or torch.is_grad_enabled():
            return inner(input_ids=input_ids, attention_mask=attention_mask, **others)
        ids = input_ids.cpu()
        mask = attention_mask.bool().cpu()
        sequences = [row[kept].tolist() for row, kept in zip(ids, mask, strict=True)]
        is_right = bool((mask[:, 1:] <= mask[:, :-1]).all()) and all(sequences)
        rows = _packed_texts(self, sequences, ids) if is_right else None
        if rows is None:
            return inner(input_ids=input_ids, attention_mask=attention_mask, **others)
        states = states_of_rows(self, rows.to(input_ids.device))
        places = pad_sequence(rows.places, batch_first=True).to(input_ids.device)
        padded = states.new_zeros((*input_ids.shape, states.shape[-1]))
        width = places.shape[1]
        padded[:, :width] = states[places] * attention_mask[:, :width, None]
        return BaseModelOutputWithPast(last_hidden_state=padded)

    backbone.forward = types.MethodType(forward, backbone)


def _packed_texts(backbone: Any, sequences: list[list[int]], ids: Tensor) -> PackedRows | None:
    config = backbone.config.get_text_config()
    is_eager = config._attn_implementation == "eager"
    pairs = ids.numel() * (ids.shape[1] if is_eager else max(ids.shape[1], config.hidden_size))
    return pack(sequences, config.hidden_size, len(ids), ids.shape[1], pairs)


def states_of_rows(backbone: Any, rows: PackedRows) -> Tensor:
    """Returns the hidden states of a backbone at all positions of rows, (R * L, D); a `TypeError` if it cannot."""
    with _masks_replaced(backbone, rows) as made:
        states = run_backbone(backbone, rows.input_ids, torch.ones_like(rows.input_ids), rows.position_ids)
    if not made:
        raise TypeError(f"{type(backbone).__name__} makes no attention mask by `transformers.masking_utils`")
    return states.flatten(0, 1)


@contextmanager
def _masks_replaced(backbone: Any, rows: PackedRows) -> Iterator[list[Tensor]]:
    """
    Has transformers make the masks of rows, in the format of the backbone's attention; yields those it has made.

    They are made once a forward pass, before its layers, which gradient checkpointing runs again without making them.
    """
    implementation = backbone.config.get_text_config()._attn_implementation
    made: list[Tensor] = []

    def make_mask(*_: Any, mask_function: Any = None, dtype: torch.dtype = torch.float32, **__: Any) -> Tensor:
        """Returns a mask of a kind of layer, (R, 1, L, L)."""
        mask = rows.attends(mask_function)[:, None]
        if implementation == "eager":
            mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
        made.append(mask)
        return mask

    ALL_MASK_ATTENTION_FUNCTIONS[implementation] = make_mask
    try:
        yield made
    finally:
        del ALL_MASK_ATTENTION_FUNCTIONS[implementation]
