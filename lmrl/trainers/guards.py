"""A policy that is no longer made of numbers: training stops before it is updated with them or saved."""

import math
from typing import Any

import torch
from torch import Tensor
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .checkpoints import newest_first
from .saving import SavingTrainer


class DivergenceError(ValueError):
    """Training came upon NaN or infinity: the policy is broken, or its next update would break it."""


class GuardedTrainer(SavingTrainer):
    """
    RLOO that stops at the first NaN or infinity, in the step in which it comes up.

    What is looked at is reduced over all processes anyway, so that all stop together: the KL and the entropy of the
    forward, and the norm of the gradients, before the optimiser uses them. A gradient scaler (fp16) passes over
    gradients that overflow and lowers its scale, which is left to it. Nothing that is broken is saved.
    """

    def _check_finite(self, name: str, value: float | None) -> None:
        """Refuse what the policy's forward gave; every process has the same value."""
        if value is not None and not math.isfinite(value):
            done = self.state.global_step
            raise DivergenceError(
                f"{self._where()} {name} is {value}: what the policy computes is no longer finite, so its weights "
                f"after step {done} are broken. {self._last_checkpoint(done)} {self._remedy()}"
            )

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Called between the last backward pass and the update."""
        grad_norm = super()._get_grad_norm(model, grad_norm)
        norm = grad_norm.item() if isinstance(grad_norm, Tensor) else grad_norm
        if norm is not None and not math.isfinite(norm) and self.accelerator.scaler is None:
            raise DivergenceError(
                f"{self._where()} the norm of the gradients is {norm}, and the update with them was not made. "
                f"{self._last_checkpoint()} {self._remedy()}"
            )
        return grad_norm

    def _check_weights(self) -> None:
        """Refuse to save weights that are not finite, on every process if they are not on one."""
        weights = [getattr(weight, "to_local", lambda w=weight: w)() for weight in self.model.parameters()]
        broken = torch.tensor(not all(bool(weight.isfinite().all()) for weight in weights), dtype=torch.int64)
        if self.accelerator.reduce(broken.to(self.accelerator.device), reduction="sum") > 0:
            raise DivergenceError(
                f"After step {self.state.global_step} weights of the policy are NaN or infinite, and were not saved. "
                f"{self._last_checkpoint()} {self._remedy()}"
            )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self._check_weights()
        super()._save_checkpoint(model, trial)

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        """Saves the policy, if its weights are finite."""
        if not kwargs.get("_internal_call"):  # else within a checkpoint
            self._check_weights()
        super().save_model(*args, **kwargs)

    def _where(self) -> str:
        return f"Training was stopped in step {self.state.global_step + 1}:"

    def _last_checkpoint(self, suspect: int | None = None) -> str:
        """Say where to go on from. A checkpoint of the very weights that gave NaN may be broken too."""
        last, *older = [*newest_first(self.args.output_dir), None]
        if last is None:
            return "There is no checkpoint to go back to (save_steps makes them)."
        if last.name != f"{PREFIX_CHECKPOINT_DIR}-{suspect}":
            return f"The last checkpoint is {last}."
        before = "there is none before it" if older[0] is None else f"go back to {older[0]}"
        return f"The last checkpoint is {last}; if it was saved from these very weights, {before}."

    def _remedy(self) -> str:
        args = self.args
        return (
            f"Lower learning_rate (it is {args.learning_rate:g}) or max_grad_norm (it is {args.max_grad_norm:g}), "
            f"raise beta (it is {self.beta:g}), or check the rewards for extreme values."
        )
