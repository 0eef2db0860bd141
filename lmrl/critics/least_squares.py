"""The critic that is fitted in closed form, anew for every rollout, on the rollouts before it."""

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load, save
from torch import Tensor

from lmrl import core
from lmrl.progress import PrefixFinder, join_progress

# Candidates for the shrinkage; the one that has predicted rollouts best before they were fitted is taken.
SHRINKAGES = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0)
FIRST_CHOICE = SHRINKAGES.index(1.0)  # as long as none has predicted anything


class LeastSquaresCritic:
    """
    Ridge regression of returns on features of states; see [`~lmrl.core.fit_ridge`].

    Its sums forget earlier rollouts, whose policy was another one, by a factor. It has no weights that are trained, so
    no engine needs to know of it, and all processes hold the same.

    Args:
        forgetting (`float`):
            Factor, in (0, 1], on the sums of earlier rollouts with each new one.
        accelerator (`accelerate.Accelerator`), tokenizer (`transformers.PreTrainedTokenizerBase`):
            Sums over all processes; the texts of completions.
    """

    def __init__(self, forgetting: float, accelerator: Accelerator, tokenizer: Any) -> None:
        self.forgetting = forgetting
        self._accelerator = accelerator
        self._find_prefixes = PrefixFinder(tokenizer)
        self._moments: Tensor | None = None
        self._errors = torch.zeros(len(SHRINKAGES), dtype=torch.float64)
        self._weights: Tensor | None = None

    @property
    def shrinkage(self) -> float:
        """The shrinkage of the values."""
        return SHRINKAGES[self._choice]

    @property
    def _choice(self) -> int:
        return int(self._errors.argmin()) if self._errors.any() else FIRST_CHOICE

    def progress(
        self,
        reward_funcs: Sequence[Callable[..., Any]],
        completion_ids: Tensor,
        mask: Tensor,
        columns: Mapping[str, Sequence[Any]],
    ) -> Tensor:
        """
        Returns what rewards know of the texts so far, (B, T, K): see [`~lmrl.progress.join_progress`]. `columns` are
        `prompts` and the columns of the dataset, with a value per completion. K is 0 if no reward has `progress`.
        """
        rows = [ids[kept].tolist() for ids, kept in zip(completion_ids, mask.bool(), strict=True)]
        numbers = join_progress(reward_funcs, self._find_prefixes(rows), **columns)
        width = max((len(of_token) for of_row in numbers for of_token in of_row), default=0)
        widths = self._accelerator.gather(torch.tensor([width], device=mask.device))  # 0 where no token counts
        padded = torch.zeros(*mask.shape, int(widths.max()))
        for row, of_row in enumerate(numbers):
            if of_row:
                padded[row, : len(of_row)] = torch.tensor(of_row)
        return padded.to(mask.device)

    def values(self, features: Tensor, returns: Tensor, mask: Tensor, half: Tensor) -> Tensor:
        """
        Returns the values of states, (B, T), which do not depend on the completion that they are values of.

        They are those of the earlier rollouts' weights. Before there are any, each half of the prompts gets those of
        the other half.

        Args:
            features (`torch.Tensor` of shape `(B, T, F)`), returns (`torch.Tensor` of shape `(B, T)`):
                Features of the state before each token, and its return, which only a first rollout reads.
            half (`torch.Tensor` of shape `(B,)`):
                Whether a completion is in the second half of the prompts.
        """
        if self._weights is not None:
            return core.linear_values(features, self._weights[self._choice])
        values = torch.zeros_like(returns)
        for is_second in (False, True):
            others = mask * (half != is_second).unsqueeze(1)
            moments = self._sum(core.regression_moments(features, returns, others))
            weights = core.fit_ridge(moments, self.shrinkage)
            rows = half == is_second
            values[rows] = core.linear_values(features[rows], weights)
        return values

    def update(self, features: Tensor, returns: Tensor, mask: Tensor) -> None:
        """Fits the rollout too, for those after it. All processes must call it."""
        new = self._sum(core.regression_moments(features, returns, mask))
        if self._moments is None or self._weights is None:
            self._moments = new
        else:
            errors = torch.stack([core.squared_error(new, weights) for weights in self._weights]).cpu()
            self._errors = self.forgetting * self._errors + errors
            self._moments = self.forgetting * self._moments + new
        self._weights = torch.stack([core.fit_ridge(self._moments, shrinkage) for shrinkage in SHRINKAGES])

    def _sum(self, moments: Tensor) -> Tensor:
        total: Tensor = self._accelerator.reduce(moments, reduction="sum")
        return total

    def state_dict(self) -> str | None:
        """Returns all that the next values depend on as text, for JSON; None before the first rollout."""
        if self._moments is None or self._weights is None:
            return None
        tensors = {"moments": self._moments, "errors": self._errors, "weights": self._weights}
        return base64.b64encode(save({name: tensor.cpu() for name, tensor in tensors.items()})).decode()

    def load_state_dict(self, state: str | None) -> None:
        """Loads what [`~LeastSquaresCritic.state_dict`] returned; a `ValueError` if it is of another critic."""
        if not state:
            raise ValueError(
                "`resume_from_checkpoint` must be of a run with critic='least_squares', got one without its sums. Use "
                "the `critic` of the run that wrote it."
            )
        tensors = load(base64.b64decode(state))
        self._moments = tensors["moments"].to(self._accelerator.device)
        self._weights = tensors["weights"].to(self._accelerator.device)
        self._errors = tensors["errors"]
