"""Checks that stop training when the KL, the entropy, the gradients or the weights become NaN or infinite."""

import math
from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from torch import nn
from transformers import TrainingArguments

from lmrl.checkpoints import checkpoint_folder, newest_first

logger = get_logger(__name__)


class DivergenceError(ValueError):
    """NaN or infinity in training: the policy is broken, or its next update would break it."""


class FiniteChecks:
    """
    Checks of values that are reduced over all processes anyway, so that all of them stop in the same step. Each takes
    the number of optimizer steps done, for the message of its [`DivergenceError`].
    """

    def __init__(self, args: TrainingArguments) -> None:
        self.args = args

    def known(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Returns held-out metrics with NaN, and a warning, if no row has the one that chooses the best checkpoint."""
        name = "eval_" + (self.args.metric_for_best_model or "").removeprefix("eval_")
        value = metrics.get(name, 0.0)
        if value is not None and not math.isnan(value):
            return dict(metrics)
        logger.warning(f"No held-out row has a value of {name}: this evaluation does not choose the best checkpoint.")
        return {**metrics, name: math.nan}

    def check_forward(self, name: str, value: float, step: int) -> None:
        """Checks a result of the policy's forward, which all processes have."""
        if not math.isfinite(value):
            self._stop(
                f"Training was stopped in step {step + 1}: {name} is {value}: what the policy computes is no longer "
                f"finite, so its weights after step {step} are broken.",
                suspect=step,
            )

    def check_gradients(self, norm: float, step: int) -> None:
        """Checks the norm of the gradients, between the last backward pass and the update."""
        if not math.isfinite(norm):
            self._stop(
                f"Training was stopped in step {step + 1}: the norm of the gradients is {norm}, and the update with "
                "them was not made."
            )

    def check_weights(self, model: nn.Module, accelerator: Accelerator, step: int) -> None:
        """Checks the weights, in shards or not, before they are saved; if one process fails, all of them do."""
        head = getattr(model, "get_output_embeddings", lambda: None)()
        bias = getattr(head, "bias", None)  # may be -inf, for a token that is suppressed; NaN is below no number
        sound = []
        for weight in model.parameters():
            shard = getattr(weight, "to_local", lambda weight=weight: weight)()
            sound.append(bool((shard < math.inf if weight is bias else shard.isfinite()).all()))
        broken = torch.tensor(not all(sound), dtype=torch.int64)
        if accelerator.reduce(broken.to(accelerator.device), reduction="sum") > 0:
            self._stop(f"After step {step} weights of the policy are NaN or infinite, and were not saved.")

    def _stop(self, reason: str, suspect: int | None = None) -> NoReturn:
        """Raises an error with the checkpoint to go on from; one of the step `suspect`, which gave NaN, is doubted."""
        args = self.args
        checkpoints = newest_first(args.output_dir)
        last = "There is no checkpoint to go back to (`save_steps` makes them)."
        if checkpoints:
            doubt = ""
            if checkpoints[0] == checkpoint_folder(args.output_dir, suspect or 0):
                before = f"go back to {checkpoints[1]}" if len(checkpoints) > 1 else "there is none before it"
                doubt = f"; if it was saved from these very weights, {before}"
            last = f"The last checkpoint is {checkpoints[0]}{doubt}."
        raise DivergenceError(
            f"{reason} {last} Lower `learning_rate` (it is {args.learning_rate:g}) or `max_grad_norm` (it is "
            f"{args.max_grad_norm:g}), raise `beta` (it is {args.beta:g}), or check the rewards for extreme values."
        )
