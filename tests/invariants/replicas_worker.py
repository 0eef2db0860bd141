"""Three steps in bfloat16 by one of several processes, which writes the weights it has; run by test_world.py."""

import itertools
import sys
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from training import ALGORITHMS, make_trainer

from lmrl.cli import run


def main(model: str, folder: Path) -> None:
    """Trains all weights, and an adapter, by both algorithms, with batches that differ between the processes."""
    weights: dict[str, dict[str, torch.Tensor]] = {}
    for algorithm, kind in itertools.product(ALGORITHMS, ("full", "lora")):
        extra: dict[str, Any] = {"bf16": True, "max_steps": 3, "per_device_train_batch_size": 4}
        if kind == "lora":
            extra["peft_config"] = LoraConfig(r=4, target_modules=["c_attn"], task_type="CAUSAL_LM")
        if algorithm == "ppo":
            extra["num_iterations"] = 1
        trainer = make_trainer(algorithm, model, folder / "run", startup_checks=False, **extra)
        trainer.train()
        weights[f"{algorithm} {kind}"] = {
            name: weight.detach().clone() for name, weight in trainer.model.named_parameters() if weight.requires_grad
        }
    torch.save(weights, folder / f"{trainer.accelerator.process_index}.pt")


if __name__ == "__main__":
    torch.manual_seed(0)
    run(lambda: main(sys.argv[1], Path(sys.argv[2])))
