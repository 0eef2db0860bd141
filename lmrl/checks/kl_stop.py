"""Stops the updates of a rollout early where the policy has moved too far from the one that sampled it."""

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor
from transformers import TrainerCallback

from lmrl import core

# Updates are left out above this multiple of `target_kl`, which is the factor of Stable-Baselines3.
TOLERANCE = 1.5


class KLStop(TrainerCallback):
    """
    Leaves out an update, and those of the same rollout that follow, where KL(policy that sampled || policy) is above
    `1.5 * target_kl`, as the PPO of Stable-Baselines3 does. The KL is the mean over the tokens of the update, on all
    processes, of `core.k3`. What is left out counts as an optimizer step, with its learning rate, and moves nothing:
    the gradients are dropped before the optimizer sees them. The meter logs how many updates of the run were left out.
    """

    def __init__(self, args: Any, accelerator: Accelerator, meter: Any) -> None:
        if args.target_kl is not None and accelerator.distributed_type == DistributedType.DEEPSPEED:
            raise ValueError(
                f"`target_kl` must be None under DeepSpeed, got {args.target_kl}. It updates weights in its backward "
                "pass, where no update can be left out: take DDP or FSDP, or lower `num_iterations`."
            )
        self.target = args.target_kl
        self.batches = args.steps_per_generation * args.num_iterations  # served from one rollout
        self.accumulated = args.gradient_accumulation_steps
        self.device = accelerator.device
        self.meter = meter
        self.until = 0  # batches before this number are left out: there the next rollout begins
        self.left_out = 0  # updates of the run
        self._kl = [0.0, 0.0]  # of the update: sum over tokens, and their number
        self._batch = 0

    @torch.no_grad()
    def watch(self, log_probs: Tensor, rollout: Any, batch: int) -> None:
        """Adds the KL of a batch, number `batch` of the run, to that of its update; does nothing in an evaluation."""
        if self.target is None or self.meter.mode == "eval":
            return
        moments = self.meter.moments(core.k3(rollout.old_log_probs, log_probs), rollout.completion_mask)
        self._batch = batch
        self._kl[0] += moments[1].item()
        self._kl[1] += moments[0].item()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        """Drops the gradients of an update that is left out. Called between the last backward pass and the update."""
        if self.target is None:
            return
        total, count = self._kl
        self._kl = [0.0, 0.0]
        if total / max(count, 1.0) > TOLERANCE * self.target:
            self.until = (self._batch // self.batches + 1) * self.batches
            optimizer.zero_grad()
            self._count()

    def skipped(self, batch: int) -> Tensor | None:
        """Returns the loss 0 for a batch whose update is left out, which needs no pass; None for any other batch."""
        if batch >= self.until:
            return None
        if (batch + 1) % self.accumulated == 0:
            self._count()
        return torch.zeros((), device=self.device)

    def _count(self) -> None:
        self.left_out += 1
        self.meter.values["train"]["updates_left_out"] = [float(self.left_out)]

    def state_dict(self) -> dict[str, Any]:
        """Returns the state that a resumed run goes on with."""
        return {} if self.target is None else {"kl_stop": [self.until, self.left_out]}

    def load_state_dict(self, state: dict[str, Any], batch: int) -> None:
        """Loads what [`~KLStop.state_dict`] returned, but not the end of a rollout if `batch` counts batches anew."""
        until, self.left_out = state.get("kl_stop", [0, 0])
        self.until = until if batch == state["step"] else 0
