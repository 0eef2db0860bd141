"""Checks that stop training when the KL, the entropy, the gradients or the weights become NaN or infinite."""

import math
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .checkpointing import newest_first


class DivergenceError(ValueError):
    """NaN or infinity in training: the policy is broken, or its next update would break it."""


class FiniteChecks:
    """
    Checks of values that are reduced over all processes anyway, so that all of them stop in the same step.

    Args:
        output_dir (`str`):
            Folder of the run, whose checkpoints the messages name.
        learning_rate (`float`):
            Peak learning rate, named in the messages.
        max_grad_norm (`float`):
            Bound of the gradients' norm, named in the messages.
    """

    def __init__(self, output_dir: str, learning_rate: float, max_grad_norm: float) -> None:
        self.output_dir = Path(output_dir)
        self.learning_rate = learning_rate
        self.max_grad_norm = max_grad_norm

    def check_forward(self, name: str, value: float, step: int, beta: float) -> None:
        """
        Checks a result of the policy's forward, which all processes have.

        Args:
            name (`str`):
                What it is, as a noun with its article.
            value (`float`):
                Its value.
            step (`int`):
                Optimizer steps done.
            beta (`float`):
                Coefficient of the KL penalty, named in the message.

        Raises:
            DivergenceError: If it is NaN or infinite.
        """
        if not math.isfinite(value):
            raise DivergenceError(
                f"Training was stopped in step {step + 1}: {name} is {value}: what the policy computes is no longer "
                f"finite, so its weights after step {step} are broken. {self._last_checkpoint(step)} "
                f"{self._remedy(beta)}"
            )

    def check_gradients(self, norm: float, step: int, beta: float) -> None:
        """
        Checks the norm of the gradients, between the last backward pass and the update.

        Args:
            norm (`float`):
                Norm over all parameters.
            step (`int`):
                Optimizer steps done.
            beta (`float`):
                Coefficient of the KL penalty, named in the message.

        Raises:
            DivergenceError: If it is NaN or infinite.
        """
        if not math.isfinite(norm):
            raise DivergenceError(
                f"Training was stopped in step {step + 1}: the norm of the gradients is {norm}, and the update with "
                f"them was not made. {self._last_checkpoint()} {self._remedy(beta)}"
            )

    def check_weights(self, model: nn.Module, accelerator: Accelerator, step: int, beta: float) -> None:
        """
        Checks the weights before they are saved, on every process.

        Args:
            model (`torch.nn.Module`):
                Policy, in shards or not.
            accelerator ([`~accelerate.Accelerator`]):
                Joins the processes.
            step (`int`):
                Optimizer steps done.
            beta (`float`):
                Coefficient of the KL penalty, named in the message.

        Raises:
            DivergenceError: On every process, if a weight of any of them is NaN or infinite.
        """
        weights = [getattr(weight, "to_local", lambda weight=weight: weight)() for weight in model.parameters()]
        broken = torch.tensor(not all(bool(weight.isfinite().all()) for weight in weights), dtype=torch.int64)
        if accelerator.reduce(broken.to(accelerator.device), reduction="sum") > 0:
            raise DivergenceError(
                f"After step {step} weights of the policy are NaN or infinite, and were not saved. "
                f"{self._last_checkpoint()} {self._remedy(beta)}"
            )

    def _last_checkpoint(self, suspect: int | None = None) -> str:
        """Returns where to go on from. A checkpoint of the very weights that gave NaN may be broken too."""
        checkpoints = newest_first(self.output_dir)
        if not checkpoints:
            return "There is no checkpoint to go back to (`save_steps` makes them)."
        last = checkpoints[0]
        if last.name != f"{PREFIX_CHECKPOINT_DIR}-{suspect}":
            return f"The last checkpoint is {last}."
        before = f"go back to {checkpoints[1]}" if len(checkpoints) > 1 else "there is none before it"
        return f"The last checkpoint is {last}; if it was saved from these very weights, {before}."

    def _remedy(self, beta: float) -> str:
        return (
            f"Lower `learning_rate` (it is {self.learning_rate:g}) or `max_grad_norm` (it is {self.max_grad_norm:g}), "
            f"raise `beta` (it is {beta:g}), or check the rewards for extreme values."
        )
