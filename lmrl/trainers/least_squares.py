"""The critic that is fitted in closed form, anew for every rollout, on the rollouts before it."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from lmrl import core

# Candidates for the shrinkage; the one that has predicted rollouts best before they were fitted is taken.
SHRINKAGES = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0)
FIRST_CHOICE = SHRINKAGES.index(1.0)  # as long as none has predicted anything
MAX_WIDTH = 1_024  # of the states: the fit costs the third power of it
PROJECTION_SEED = 0


class LeastSquaresCritic:
    """
    Ridge regression of returns on features of states; see [`~lmrl.core.fit_ridge`].

    Its sums forget earlier rollouts, whose policy was another one, by a factor. It has no weights that are trained, so
    no engine needs to know of it, and all processes hold the same.

    Args:
        forgetting (`float`):
            Factor, in (0, 1], on the sums of earlier rollouts with each new one.
        reduce (`Callable`):
            Returns the sum of a tensor over all processes.
    """

    def __init__(self, forgetting: float, reduce: Callable[[Tensor], Tensor]) -> None:
        self.forgetting = forgetting
        self._reduce = reduce
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
            moments = self._reduce(core.regression_moments(features, returns, others))
            weights = core.fit_ridge(moments, self.shrinkage)
            rows = half == is_second
            values[rows] = core.linear_values(features[rows], weights)
        return values

    def update(self, features: Tensor, returns: Tensor, mask: Tensor) -> None:
        """Fits the rollout too, for those after it. All processes must call it."""
        new = self._reduce(core.regression_moments(features, returns, mask))
        if self._moments is None or self._weights is None:
            self._moments = new
        else:
            errors = torch.stack([core.squared_error(new, weights) for weights in self._weights]).cpu()
            self._errors = self.forgetting * self._errors + errors
            self._moments = self.forgetting * self._moments + new
        self._weights = torch.stack([core.fit_ridge(self._moments, shrinkage) for shrinkage in SHRINKAGES])

    def state_dict(self) -> dict[str, Tensor]:
        """Returns what a checkpoint must have for the next values to be the same: empty before the first rollout."""
        if self._moments is None or self._weights is None:
            return {}
        return {"moments": self._moments, "errors": self._errors, "weights": self._weights}

    def load_state_dict(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Loads what [`~LeastSquaresCritic.state_dict`] returned."""
        if state:
            self._moments = state["moments"].to(device)
            self._weights = state["weights"].to(device)
            self._errors = state["errors"].cpu()


def state_features(states: Tensor) -> Tensor:
    """
    Returns states (B, T, D) as features of at most `MAX_WIDTH` columns, of wider ones a random projection, always the
    same.
    """
    width = states.shape[-1]
    if width <= MAX_WIDTH:
        return states.float()
    generator = torch.Generator().manual_seed(PROJECTION_SEED)
    projection = torch.randn(width, MAX_WIDTH, generator=generator) / MAX_WIDTH**0.5
    return states.float() @ projection.to(states.device)


def join_features(states: Tensor, others: Tensor) -> Tensor:
    """
    Returns the features of the critic: states, other numbers known of the text so far, (B, T, K), the number of the
    token, and its products with the other numbers, which mean something else at the end than at the beginning.
    """
    place = torch.arange(states.shape[1], device=states.device, dtype=torch.float32)
    place = place.view(1, -1, 1).expand(len(states), -1, 1)
    return torch.cat([state_features(states), others, place, others * place], dim=-1)
