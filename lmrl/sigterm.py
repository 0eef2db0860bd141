"""SIGTERM, which a scheduler sends before it takes a machine away: the run saves its step and ends."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from transformers import TrainerCallback
from transformers.trainer_callback import CallbackHandler

from lmrl.checkpoints import checkpoint_folder

logger = get_logger(__name__)

# Two signals within so many seconds are one: a scheduler sends it to all processes, and torchrun passes it on.
SIGNAL_DEBOUNCE_SECONDS = 3.0


class Terminated(SystemExit):
    """A run ended by SIGTERM after it was saved: exit status 143, as of any process that the signal ends."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class _SigtermCallback(TrainerCallback):
    """Lets the current step be finished, logged, evaluated and saved as ever, and leaves the training loop."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.process = os.getpid()
        self.received_at: float | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handles the signal; Python calls it between two instructions, also in processes forked from this one."""
        now = time.monotonic()
        again = self.received_at is not None and now - self.received_at > SIGNAL_DEBOUNCE_SECONDS
        if again or os.getpid() != self.process:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.received_at = self.received_at or now

    def _any_received(self) -> bool:
        """Returns whether any process got the signal: all of them check at once, and stop after the same step."""
        received = torch.tensor(float(self.received_at is not None), device=self.accelerator.device)
        return bool(self.accelerator.reduce(received, reduction="sum").item() > 0)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Requests a checkpoint."""
        control.should_save |= self._any_received()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ends the run once its checkpoint is complete."""
        if self._any_received():
            checkpoint = checkpoint_folder(args.output_dir, state.global_step)
            logger.warning(
                f"Stopped by SIGTERM after step {state.global_step}, which is saved in {checkpoint}. Go on from there "
                "with --resume_from_checkpoint latest"
            )
            raise Terminated


@contextmanager
def save_on_sigterm(accelerator: Accelerator, callbacks: CallbackHandler) -> Iterator[None]:
    """
    Lets a run that gets SIGTERM finish its step, save a checkpoint and end with [`Terminated`]; a second one, some
    seconds later, ends it at once. Outside of the main thread Python allows no handler, and none is set.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    callback = _SigtermCallback(accelerator)
    callbacks.add_callback(callback)
    before = signal.signal(signal.SIGTERM, callback.handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
        callbacks.remove_callback(callback)
