"""Hidden states of a batch: padding is not computed, and what several sequences begin with only once."""

import functools
import types
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils import logging

from lmrl.packing import (
    PackedRows,
    attention_of,
    pack,
    pack_into_one_row,
    run_backbone,
    states_of_rows,
    takes_positions,
)
from lmrl.utils import reason_of

from .loading import context_length

logger = logging.get_logger(__name__)

# Largest relative difference, in norm, of the states of two passes: 16 bits have two or three digits.
TOLERANCE = 1e-3
TOLERANCE_IN_16_BITS = 0.05


class StatesBefore:
    """
    Reads the hidden state before each completion token, from any backbone. `input_ids` and `attention_mask`, (B, L),
    are prompts, padded on the left, followed by completions of width T, padded on the right.
    """

    def __init__(self, input_ids: Tensor, attention_mask: Tensor, completion_length: int) -> None:
        self.input_ids = input_ids
        self.attention_mask = attention_mask
        self.completion_length = completion_length
        self._packed: dict[Any, tuple[PackedRows, Tensor] | None] = {}

    def __call__(self, backbone: nn.Module) -> Tensor:
        """Returns the states before the M completion tokens, (M, D), in the order of `attention_mask[:, -T:]`."""
        packed = self._packed_for(backbone)
        if packed is not None:
            rows, before = packed
            return states_of_rows(backbone, rows).index_select(0, before)
        positions = (self.attention_mask.long().cumsum(1) - 1).clamp(min=0)
        states = run_backbone(backbone, self.input_ids, self.attention_mask, positions)
        return states[:, -self.completion_length - 1 : -1][self.attention_mask[:, -self.completion_length :].bool()]

    def _packed_for(self, backbone: Any) -> tuple[PackedRows, Tensor] | None:
        """Returns the result of [`_pack`], which backbones of a kind share, such as the policy's and a critic's."""
        form = getattr(backbone, "pass_form", None)
        if form is None:  # its configuration may be of another kind, or missing
            return None
        options = (backbone.config.get_text_config().hidden_size, attention_of(backbone), form)
        if options not in self._packed:
            self._packed[options] = self._pack(backbone)
        return self._packed[options]

    def _pack(self, backbone: Any) -> tuple[PackedRows, Tensor] | None:
        """
        Returns the sequences packed into rows, and the places in them of the M states, (M,), or None if that saves
        nothing. The last token of each completion is left out, as no token follows its state.
        """
        ids = self.input_ids.cpu()
        mask = self.attention_mask.bool().cpu()
        completed = mask[:, -self.completion_length :]
        lengths = completed.sum(1).tolist()
        follows_padding = (completed & ~mask[:, -self.completion_length - 1 : -1]).any()
        if follows_padding or not any(lengths):
            return None
        used = [row for row, length in enumerate(lengths) if length > 0]
        rows = _rows_of([ids[row, mask[row]][:-1].tolist() for row in used], backbone, *ids.shape)
        if rows is None:
            return None
        before = torch.cat([places[-lengths[row] :] for row, places in zip(used, rows.places, strict=True)])
        return rows.to(self.input_ids.device), before.to(self.input_ids.device)


def _rows_of(sequences: list[list[int]], backbone: Any, batch: int, length: int) -> PackedRows | None:
    """Returns sequences in the rows that are cheapest for a backbone, or None if a padded batch (B, L) is as cheap."""
    if backbone.pass_form == "flash":
        return pack_into_one_row(sequences, batch, length)
    width = backbone.config.get_text_config().hidden_size
    # Limits the pairs of positions: eager attention keeps a weight of each pair and head for the backward pass. Others
    # have only a mask, which may take as many bytes as a layer's states have numbers.
    most = length if attention_of(backbone) == "eager" else max(length, width)
    return pack(sequences, width, batch, length, batch * length * most, backbone.pass_form == "shared")


@torch.no_grad()
def share_prompts(backbone: PreTrainedModel, may_share: bool = True) -> None:
    """
    Makes the scoring pass of a backbone, which must be complete and not in its engine yet, leave out padding and
    compute only once what several completions begin with; sets its `pass_form`.

    The form is `"shared"` if a comparison finds the states of the plain pass; `"apart"`, with sequences side by side
    but nothing shared, if it does not, or the architecture takes no positions (ALiBi); `"flash"`, with all sequences
    behind each other in one row, for a flash kernel; else None, the plain pass, as with recurrent layers or attention
    that makes its own masks. Less than sharing is a line in the log. Without `may_share` only `"flash"` is tried.
    """
    backbone.pass_form = None
    if not may_share and "flash" not in attention_of(backbone):
        return
    training = backbone.training
    backbone.eval()
    reason = _reason_against(backbone)
    backbone.train(training)
    if reason is not None and (may_share or backbone.pass_form is None):
        logger.warning(f"{type(backbone).__name__} computes each prompt once per completion: {reason}.")


def _reason_against(backbone: Any) -> str | None:
    """Returns the reason why a backbone shares no beginnings, or None; sets its `pass_form`."""
    if getattr(backbone, "_is_stateful", False) or any(isinstance(module, nn.Conv1d) for module in backbone.modules()):
        return "its layers carry a state from token to token"
    implementation = attention_of(backbone)
    takes_masks = implementation in ("sdpa", "eager")
    reason = f"its attention is {implementation!r}, which takes no mask of pairs"
    if not takes_masks and "flash" not in implementation:
        return reason
    if (context_length(backbone) or 12) < 12:
        return "its context is too short to compare passes"
    forms = ["shared", "apart"] if takes_masks else ["flash"]
    if not takes_positions(backbone):
        forms = forms[1:]
        reason = "it takes no positions"
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(backbone.config.get_text_config().vocab_size, (2, 12), generator=generator)
    ids = prompts.repeat_interleave(4, dim=0).to(backbone.device)
    ids[1::4, 8:] = ids[1::4, 8:].flip(1)
    ids[2::4, 6:] = ids[0::4, :6]
    mask = torch.ones_like(ids)
    mask[:, :2] = (torch.arange(8, device=ids.device) >= 4).long()[:, None]
    mask[3::4, 9:] = 0
    read = StatesBefore(ids, mask, 6)
    plain = read(backbone)
    tolerance = TOLERANCE if plain.dtype == torch.float32 else TOLERANCE_IN_16_BITS
    for form in forms:
        backbone.pass_form = form
        try:
            difference = ((read(backbone) - plain).norm() / plain.norm()).item()
        except Exception as error:  # whatever an architecture's own code makes of it
            reason = reason_of(error)
            continue
        if difference <= tolerance:
            return None if form == "shared" else reason
        reason = f"its states would differ by {difference:.2g}"
    backbone.pass_form = None
    return reason


def share_in_forward(backbone: Any) -> None:
    """
    Makes a backbone's own forward leave out padding and compute shared beginnings once, as its scoring pass does.

    It does so for calls with just token ids and a mask, of texts padded on the right, without gradient, where it saves
    something, and returns the same states, with zeros on padding. Other calls run the forward as it was.
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
        rows = _rows_of(sequences, self, *ids.shape) if is_right else None
        if rows is None:
            return inner(input_ids=input_ids, attention_mask=attention_mask, **others)
        states = states_of_rows(self, rows.to(input_ids.device))
        padded = states.new_zeros((*input_ids.shape, states.shape[-1]))
        padded[attention_mask.bool()] = states[torch.cat(rows.places).to(input_ids.device)]
        return BaseModelOutputWithPast(last_hidden_state=padded)

    backbone.forward = types.MethodType(forward, backbone)
