"""Packing of sequences into rows, with what several of them begin with only once, and a model's pass over the rows."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

# What a pair of a query and a key costs, in positions of a model of width 1: a position takes 24 products of its width
# in each layer and a pair 4, a little slower (0.20 to 0.24 measured at the widths 256 and 768 on a CPU).
_COST_OF_A_PAIR = 0.25
_CAPACITIES = tuple(1.07**power for power in range(28))  # of a row, as multiples of the longest sequence
_LEAST_SAVING = 0.05  # share of the cost; with less to save, as with unlike prompts of one length, the plain pass runs


@dataclass(frozen=True)
class PackedRows:
    """
    Sequences of tokens side by side in R rows of L positions. What several in a row begin with is there only once.

    A row holds prefix trees in depth-first order: the tokens that continue the one at a position are those between it
    and its end in `ends`.

    Args:
        input_ids (`torch.Tensor` of shape `(R, L)`):
            Token ids, 0 on the padding at the end of a row.
        position_ids (`torch.Tensor` of shape `(R, L)`):
            Position of each token in its sequences.
        ends (`torch.Tensor` of shape `(R, L)`):
            For each token, the place in its row behind the last token that continues it.
        places (`list[torch.Tensor]`):
            For each sequence, the place of each of its tokens in the R * L positions.
        lengths (`list[int]`, *optional*):
            Lengths of sequences that lie behind each other in one row: flash attention reads these, and no mask.
    """

    input_ids: Tensor
    position_ids: Tensor
    ends: Tensor
    places: list[Tensor]
    lengths: list[int] | None = None

    def to(self, device: torch.device) -> "PackedRows":
        """Returns the rows with the tensors that a model reads moved to a device."""
        ids, positions, ends = torch.stack([self.input_ids, self.position_ids, self.ends]).to(device)  # in one piece
        return replace(self, input_ids=ids, position_ids=positions, ends=ends)

    def attends(self, mask_function: Callable[..., Tensor] | None = None) -> Tensor:
        """
        Returns which position attends to which, (R, L, L): a token to itself and those before it in its sequence,
        where the architecture's `mask_function` allows it (sliding windows, chunks), and padding to itself.
        """
        rows, length = self.input_ids.shape
        place = torch.arange(length, device=self.ends.device)
        query = place[None, :, None]
        allowed = (place[None, None, :] <= query) & (query < self.ends[:, None, :])
        if mask_function is not None:
            batch = torch.arange(rows, device=self.ends.device)[:, None, None]
            positions = self.position_ids
            zero = torch.zeros_like(batch)
            allowed = allowed & mask_function(batch, zero, positions[:, :, None], positions[:, None, :])
        return allowed | torch.eye(length, dtype=torch.bool, device=self.ends.device)


def cost(rows: int, length: int, width: int) -> float:
    """Returns the cost of a pass over R rows of L positions; the unit is the cost of a position without attention."""
    return rows * length * (1 + length * _COST_OF_A_PAIR / width)


def pack(
    sequences: Sequence[list[int]], width: int, rows: int, length: int, pairs: int, shared: bool = True
) -> PackedRows | None:
    """
    Returns sequences in the rows that cost least, as tensors on the CPU, or None if a padded batch hardly costs more.

    The longer a row, the less padding and the fewer copies of a prompt there are; but attention compares every
    position of a row with every other.

    Args:
        sequences (list of lists of `int`):
            Token ids, each with at least one.
        width (`int`):
            Width of the model, for [`cost`].
        rows, length (`int`):
            Shape of the batch with its padding.
        pairs (`int`):
            The most pairs of positions that may be compared: a mask has an element for each.
        shared (`bool`, *optional*, defaults to `True`):
            Whether what several sequences begin with is there once; otherwise they only lie side by side.
    """
    order = sorted(range(len(sequences)), key=lambda index: sequences[index])
    forest = _Forest([sequences[index] for index in order], shared)
    longest = max(map(len, sequences))
    lowest = cost(rows, length, width) * (1 - _LEAST_SAVING)
    best: list[list[range]] | None = None
    for capacity in dict.fromkeys(int(longest * factor) for factor in _CAPACITIES):
        filled, fullest = forest.fill(capacity)
        price = cost(len(filled), fullest, width)
        if price < lowest and len(filled) * fullest**2 <= pairs:
            best, lowest = filled, price
    if best is None:
        return None
    packed = [forest.lay_out(row) for row in best]
    return _padded(packed, [order[index] for row in best for run in row for index in run])


def pack_into_one_row(sequences: Sequence[list[int]], rows: int, length: int) -> PackedRows | None:
    """
    Returns sequences behind each other in one row, for flash attention, or None if a padded batch is hardly longer.

    Flash attention computes no pair of positions of two sequences, so one row never costs more than a batch of R rows
    of L positions, and only the number of positions matters.
    """
    lengths = list(map(len, sequences))
    if sum(lengths) >= rows * length * (1 - _LEAST_SAVING):
        return None
    row = _Forest(sequences, shared=False).lay_out([range(index, index + 1) for index in range(len(sequences))])
    return replace(_padded([row], list(range(len(sequences)))), lengths=lengths)


class _Forest:
    """Sequences in an order in which those that begin alike are neighbours, and what each shares with the last."""

    def __init__(self, ordered: Sequence[list[int]], shared: bool) -> None:
        self.ordered = ordered
        self.common = [0, *(_common_length(*pair) if shared else 0 for pair in pairwise(ordered))]
        added = (len(sequence) - common for sequence, common in zip(ordered, self.common, strict=True))
        self.total = [0, *accumulate(added)]
        self._cuts: dict[range, int] = {}

    def size(self, run: range) -> int:
        """Returns the number of positions that a run of neighbours takes, where shared ones count once."""
        return self.total[run.stop] - self.total[run.start] + self.common[run.start]

    def fill(self, capacity: int) -> tuple[list[list[range]], int]:
        """Returns rows of runs, largest run first, each in the fullest row with room; and the longest row's length."""
        rows: list[list[range]] = []
        room: list[int] = []
        for run in sorted(self._runs(capacity), key=lambda run: (-self.size(run), run.start)):
            size = self.size(run)
            fitting = [index for index, left in enumerate(room) if left >= size]
            if not fitting:
                fitting = [len(rows)]
                rows.append([])
                room.append(capacity)
            index = min(fitting, key=room.__getitem__)
            rows[index].append(run)
            room[index] -= size
        return rows, capacity - min(room)

    def _runs(self, capacity: int) -> Iterator[range]:
        """Yields runs of neighbours that fit into a row, cut where neighbours have least in common."""
        waiting = [range(len(self.ordered))]
        while waiting:
            run = waiting.pop()
            if len(run) == 1 or (self.size(run) <= capacity and self.common[self._cut(run)] > 0):
                yield run
            else:
                waiting += [range(run.start, self._cut(run)), range(self._cut(run), run.stop)]

    def _cut(self, run: range) -> int:
        """Returns where to cut a run: in the middle one of the places where neighbours have least in common."""
        if run not in self._cuts:
            inner = self.common[run.start + 1 : run.stop]
            least = min(inner)
            places = [place for place, common in enumerate(inner, run.start + 1) if common == least]
            self._cuts[run] = places[len(places) // 2]
        return self._cuts[run]

    def lay_out(self, row: list[range]) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Returns token ids, positions and ends of a row, (L,) each, and the places of each of its sequences."""
        ids: list[int] = []
        positions: list[Tensor] = []
        places: list[Tensor] = []
        ends = torch.zeros(sum(map(self.size, row)), dtype=torch.long)
        path = torch.empty(0, dtype=torch.long)
        for run in row:
            for index in run:
                sequence = self.ordered[index]
                common = self.common[index] if index > run.start else 0
                ends[path[common:]] = len(ids)
                new = torch.arange(len(sequence) - common)
                path = torch.cat([path[:common], new + len(ids)])
                positions.append(new + common)
                ids += sequence[common:]
                places.append(path)
        ends[path] = len(ids)
        return torch.tensor(ids), torch.cat(positions), ends, places


def _common_length(first: Sequence[int], second: Sequence[int]) -> int:
    pairs = zip(first, second, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))


def _padded(rows: list[tuple[Tensor, Tensor, Tensor, list[Tensor]]], order: list[int]) -> PackedRows:
    """Returns rows padded to one length. `order` has the original index of each sequence, as they lie in the rows."""
    ids, positions, ends, places = zip(*rows, strict=True)
    length = max(map(len, ids))
    in_rows = [sequence + length * row for row, sequences in enumerate(places) for sequence in sequences]
    by_index = dict(zip(order, in_rows, strict=True))
    return PackedRows(
        input_ids=pad_sequence(list(ids), batch_first=True),
        position_ids=pad_sequence(list(positions), batch_first=True),
        ends=pad_sequence(list(ends), batch_first=True),
        places=[by_index[index] for index in range(len(order))],
    )


# -- the pass --------------------------------------------------------------------------------------------------------


def attention_of(backbone: Any) -> str:
    """Returns the name of the attention that a backbone runs; that of a flash kernel contains `flash`."""
    return str(backbone.config.get_text_config()._attn_implementation)


def takes_positions(backbone: nn.Module) -> bool:
    """Returns whether the forward of a backbone takes the positions of its tokens."""
    return "position_ids" in inspect.signature(type(backbone).forward).parameters


def run_backbone(backbone: nn.Module, ids: Tensor, mask: Tensor | None, positions: Tensor, **options: Any) -> Tensor:
    """Returns the last hidden states of token ids, (B, L, D). Positions are passed if the architecture takes them."""
    if takes_positions(backbone):
        options["position_ids"] = positions
    return backbone(input_ids=ids, attention_mask=mask, use_cache=False, **options).last_hidden_state


def states_of_rows(backbone: Any, rows: PackedRows) -> Tensor:
    """Returns hidden states at all positions of rows, (R * L, D); a `TypeError` for a backbone with its own masks."""
    if rows.lengths is not None:
        ends = torch.tensor([0, *accumulate(rows.lengths)], dtype=torch.int32, device=rows.input_ids.device)
        longest = max(rows.lengths)
        # transformers finds them from the positions too, but waits for the GPU in every layer.
        bounds = {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}
        return run_backbone(backbone, rows.input_ids, None, rows.position_ids, **bounds).flatten(0, 1)
    implementation = attention_of(backbone)
    made: list[Tensor] = []

    def make_mask(*_: Any, mask_function: Any = None, dtype: torch.dtype = torch.float32, **__: Any) -> Tensor:
        """Returns the mask for one kind of layers, (R, 1, L, L), in the format of the backbone's attention."""
        mask = rows.attends(mask_function)[:, None]
        if implementation == "eager":
            mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
        made.append(mask)
        return mask

    # A forward pass makes its masks once, before its layers. Gradient checkpointing runs the layers again, and reads
    # the same masks.
    ALL_MASK_ATTENTION_FUNCTIONS[implementation] = make_mask
    try:
        states = run_backbone(backbone, rows.input_ids, torch.ones_like(rows.input_ids), rows.position_ids)
    finally:
        del ALL_MASK_ATTENTION_FUNCTIONS[implementation]
    if not made:
        raise TypeError(f"{type(backbone).__name__} makes no attention mask by `transformers.masking_utils`")
    return states.flatten(0, 1)
