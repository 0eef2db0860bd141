"""SIGTERM: what a scheduler sends before it takes a machine away."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from accelerate.logging import get_logger
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

logger = get_logger(__name__)

ONE = 3.0  # seconds within which two signals are one: a scheduler sends it to all processes, and torchrun passes it on


class Terminated(SystemExit):
    """A run was told to stop, and has saved what it had done: exit status 143, as of a process that SIGTERM ended."""

    def __init__(self, checkpoint: str) -> None:
        super().__init__(128 + signal.SIGTERM)
        self.checkpoint = checkpoint


class _Termination(TrainerCallback):
    """Has the step that is under way finished, logged, evaluated and saved as ever, and leaves the training loop."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.process = os.getpid()
        self.told_at: float | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Called by Python between two instructions, in a process forked from this one too."""
        again = self.told_at is not None and time.monotonic() - self.told_at > ONE
        if again or os.getpid() != self.process:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.told_at = self.told_at or time.monotonic()

    def _stops(self) -> bool:
        """Whether any process was told: all of them ask at once, and stop after the same step."""
        told = torch.tensor(float(self.told_at is not None), device=self.trainer.args.device)
        return bool(self.trainer.accelerator.reduce(told, reduction="sum").item() > 0)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Asks for a checkpoint."""
        control.should_save |= self._stops()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The checkpoint is whole: there is no more to do."""
        if self._stops():
            checkpoint = f"{args.output_dir}/{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            logger.warning(
                f"Stopped by SIGTERM after step {state.global_step}, which is saved in {checkpoint}. Go on from there "
                "with --resume_from_checkpoint latest"
            )
            raise Terminated(checkpoint)


@contextmanager
def saved_on_sigterm(trainer: Trainer) -> Iterator[None]:
    """
    Lets a run that gets SIGTERM finish its step, save a checkpoint and end with [`Terminated`]; a second one, some
    seconds later, ends it at once. Afterwards the signal does what it did before.

    transformers' `enable_jit_checkpoint` is not this: each of its processes decides for itself, in the middle of a
    step too, and `train` returns, so that the script goes on to evaluate and save what is half trained.

    Args:
        trainer ([`~transformers.Trainer`]):
            Trainer that is about to train, in the main thread: elsewhere Python allows no handler, and there is none.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    termination = _Termination(trainer)
    trainer.add_callback(termination)
    before = signal.signal(signal.SIGTERM, termination.handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
        trainer.remove_callback(termination)
