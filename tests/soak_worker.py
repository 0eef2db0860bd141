"""A long run of small steps that notes what its process holds on to; run by test_soak.py. Writes it as JSON."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import psutil
from training import make_trainer, share_of_letters
from transformers import TrainerCallback

from lmrl.rewards import Cached, InWorkers, Length, Normalized, Weighted

EVERY = 10


class Samples(TrainerCallback):
    """Notes memory, open files, threads and child processes after every tenth step."""

    def __init__(self) -> None:
        self.process = psutil.Process(os.getpid())
        self.seen: list[dict[str, float]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called after each update."""
        if state.global_step % EVERY == 0:
            self.seen.append(
                {
                    "rss": self.process.memory_info().rss / 2**20,
                    "files": self.process.num_fds(),
                    "threads": self.process.num_threads(),
                    "children": len(self.process.children(recursive=True)),
                    "history": len(json.dumps(state.log_history[-1:])) * len(state.log_history) / 2**20,
                }
            )


def main(algorithm: str, model: str, folder: str, steps: int) -> None:
    """Train with a cached reward, one in a worker and a normalised one, and log every step."""
    samples = Samples()
    reward = Weighted(
        {Normalized(Cached(share_of_letters, size=500)): 1.0, InWorkers(Length(4, name="far"), workers=1): 0.1}
    )
    trainer = make_trainer(
        algorithm,
        model,
        Path(folder),
        reward=[reward, Cached(Length(5), size=500)],
        max_steps=steps,
        logging_steps=1,
        log_completions=algorithm == "ppo",
        learning_rate=1e-4,
        beta=0.1,
        kl_target=1.0,
        kl_horizon=1000.0,
        callbacks=[samples],
    )
    trainer.train()
    Path(folder, "seen.json").write_text(json.dumps(samples.seen))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
