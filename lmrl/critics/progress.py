"""What rewards know of the texts so far of a rollout, as tensors: for a critic, and for dense rewards."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from lmrl import core
from lmrl.progress import Prefixes, PrefixFinder, Progress, potential_of, potentials, progress_of_each, side_by_side
from lmrl.utils import name_of

RewardFuncs = Sequence[Callable[..., Any]]


class RewardProgress:
    """
    Reads the `progress` of rewards: see [`~lmrl.progress.progress_of_each`]. Each rollout is read only once.

    Args:
        reward_funcs (`list[Callable]`), weights (`torch.Tensor` of shape `(F,)`), clip_range (`tuple`, *optional*):
            The rewards, and how they are summed up: see [`~lmrl.core.weighted_rewards`].
        accelerator (`accelerate.Accelerator`), tokenizer (`transformers.PreTrainedTokenizerBase`):
            Gives all processes tensors of the same width; decodes the completions.
    """

    def __init__(
        self,
        reward_funcs: RewardFuncs,
        weights: Tensor,
        clip_range: tuple[float, float] | None,
        accelerator: Accelerator,
        tokenizer: Any,
    ) -> None:
        self._reward_funcs = reward_funcs
        self._weights = weights.cpu()
        self._clip_range = clip_range
        self._accelerator = accelerator
        self._find_prefixes = PrefixFinder(tokenizer)
        self._columns: dict[str, list[Any]] = {}  # of the newest rollout
        self._read: tuple[Tensor, list[Prefixes], list[Progress]] | None = None

    def keep_columns(self, inputs: Sequence[Mapping[str, Any]], prompts: list[Any]) -> None:
        """Keeps the columns of a rollout's rows, which the progress of rewards reads."""
        self._columns = {name: [row[name] for row in inputs] for name in inputs[0] if name != "prompt"}
        self._columns["prompts"] = prompts
        self._read = None

    def numbers(self, completion_ids: Tensor, mask: Tensor) -> Tensor:
        """Returns the numbers of all rewards before each token, (B, T, K); K is 0 if no reward has `progress`."""
        prefixes, found = self._of_each(completion_ids, mask)
        numbers = side_by_side(found, prefixes)
        width = max((len(of_token) for of_row in numbers for of_token in of_row), default=0)
        widths = self._accelerator.gather(torch.tensor([width], device=mask.device))  # 0 where no token counts
        return _padded(numbers, mask, int(widths.max()))

    def potentials(self, completion_ids: Tensor, mask: Tensor) -> Tensor:
        """Returns the total reward as if the text ended before each token, (B, T). Each must have a potential."""
        prefixes, found = self._of_each(completion_ids, mask)
        of_each = potentials(self._reward_funcs, found)
        of_tokens = torch.tensor(of_each).reshape(-1, len(self._reward_funcs))
        weighing = (self._weights, self._clip_range)
        totals = iter(core.weighted_rewards(of_tokens, *weighing).tolist() if len(of_tokens) else ())
        return _padded([[[next(totals)] for _ in each.ends] for each in prefixes], mask, 1).squeeze(-1)

    def _of_each(self, completion_ids: Tensor, mask: Tensor) -> tuple[list[Prefixes], list[Progress]]:
        if self._read is None or not self._read[0].is_set_to(completion_ids):
            pairs = zip(completion_ids.cpu(), mask.bool().cpu(), strict=True)  # off the device at once
            rows = [ids[kept].tolist() for ids, kept in pairs]
            prefixes = self._find_prefixes(rows)
            found = progress_of_each(self._reward_funcs, prefixes, **self._columns)
            self._read = (completion_ids, prefixes, found)
        return self._read[1:]


def _padded(numbers: Progress, mask: Tensor, width: int) -> Tensor:
    """Returns numbers of tokens as a tensor, (B, T, width), 0 where no token counts."""
    padded = torch.zeros(*mask.shape, width)
    for row, of_row in enumerate(numbers):
        if of_row:
            padded[row, : len(of_row)] = torch.tensor(of_row)
    return padded.to(mask.device)


def check_potentials(reward_funcs: RewardFuncs) -> None:
    """Raises a `ValueError` if a reward has no potential, so that `shaping` cannot be dense."""
    names = {name_of(reward): potential_of(reward) for reward in reward_funcs}
    if without := [name for name, place in names.items() if place is None]:
        raise ValueError(
            f"`shaping` must be None with a reward that has no potential, got 'progress' with {without}. BLEU, GLEU, "
            "ChrF, Rouge, ExactMatch, TokenF1, EditSimilarity, Length, LengthPenalty, DistinctN, Format, Keywords and "
            "SlotCoverage have one, as has what is made of them alone, and a reward of yours that states which number "
            "of its `progress` is its reward as if the text ended there."
        )
