"""The pipe of the children of step.py and rollout.py to their parent, and measurements of time and memory."""

import ctypes
import importlib.metadata
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from _common import STAGES
from torch import Tensor

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Channel:
    """The pipe to the parent."""

    def __init__(self, descriptor: int) -> None:
        self._replies = os.fdopen(descriptor, "w")
        self._imported = 0

    def send(self, **message: Any) -> None:
        """Sends one reply, with the peak memory so far, after freeing all memory but that of live tensors."""
        memory = {"peak": peak_memory(), "imported": self._imported}
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc keeps freed memory
        if trim is not None:
            trim(0)
        print(json.dumps(message | memory), file=self._replies, flush=True)

    def wait_for_go(self) -> None:
        """Returns when the parent sends "go"; ends the process if the parent has closed the pipe."""
        if sys.stdin.readline().strip() != "go":
            raise SystemExit(0)

    def mark_imports(self) -> None:
        """Records the memory at a point where everything is imported, but nothing is loaded."""
        self._imported = 0 if DEVICE.type == "cuda" else peak_memory()

    def send_ready(self, model: torch.nn.Module) -> None:
        """Sends facts about the machine and the model, as a sign that the contender is ready for its first step."""
        cuda = DEVICE.type == "cuda"
        self.send(
            kind=DEVICE.type,
            device=torch.cuda.get_device_name() if cuda else f"CPU ({platform.machine()})",
            threads=torch.get_num_threads(),
            torch=torch.__version__,
            trl=importlib.metadata.version("trl"),
            parameters=sum(p.numel() for name, p in model.named_parameters() if "critic." not in name),
        )


def peak_memory() -> int:
    """Returns the peak memory so far in bytes: of the tensors on the GPU, or without one of the process."""
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss may start at the size of the parent
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def now() -> float:
    """Waits for the GPU to finish its work, and returns the time in seconds."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class StageClock:
    """Measures the seconds of a step by stage, with the same stages for every contender."""

    def start(self) -> None:
        self._stages = dict.fromkeys(STAGES, 0.0)
        self._started = self._update_started = now()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = now()
        yield
        self._stages[name] += now() - started

    def begin_update(self) -> None:
        """Marks the beginning of the update, which lasts until the end of the step."""
        self._update_started = now()

    def stop(self) -> dict[str, Any]:
        """Returns the reply for the step: its `seconds` and its `stages`."""
        ended = now()
        self._stages["update"] = ended - self._update_started
        seconds = ended - self._started
        self._stages["other"] = seconds - sum(self._stages.values())
        return {"seconds": seconds, "stages": self._stages}

    def listen(self, trainer: Any) -> None:
        """Wraps the methods of a TRL trainer that make up its stages, so that they are timed."""
        generate = trainer._generate_single_turn
        score = trainer._get_per_token_logps_and_entropies
        trainer._generate_single_turn = self._timed("generation", generate)
        trainer._get_per_token_logps_and_entropies = self._timed("scoring", score, unless=torch.is_grad_enabled)
        trainer._calculate_rewards = self._timed("reward", trainer._calculate_rewards)
        compute_loss = trainer._compute_loss

        def loss(*args: Any, **kwargs: Any) -> Tensor:
            self.begin_update()
            return compute_loss(*args, **kwargs)

        trainer._compute_loss = loss

    def _timed(
        self, stage: str, method: Callable[..., Any], unless: Callable[[], bool] = lambda: False
    ) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            if unless():
                return method(*args, **kwargs)
            with self.stage(stage):
                return method(*args, **kwargs)

        return timed
