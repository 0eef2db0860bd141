"""A rollout of eight given completions and two steps on it, under any engine; run by test_engines.py."""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from training import make_trainer

from lmrl.cli import run

COMPLETIONS = [[10, 11, 1], [12, 13, 14, 1], [15, 1], [16] * 8, [17, 18, 1], [19, 1], [1], [20, 21, 22, 23, 1]]


def make(algorithm: str, critic: str, kind: str, model: str, folder: Path, processes: int, bf16: bool) -> Any:
    """Returns a trainer that is given its completions, and has each advantage that it computes in `credited`."""
    extra: dict[str, Any] = {"critic" if algorithm == "ppo" else "baseline": critic}
    if kind == "lora":
        from peft import LoraConfig

        extra["peft_config"] = LoraConfig(r=4, target_modules=["c_attn"], task_type="CAUSAL_LM")
    if critic in ("least_squares", "critic"):  # fitted, to go on from
        extra |= {"save_strategy": "steps", "save_steps": 1}
    trainer = make_trainer(
        algorithm,
        model,
        folder,
        per_device_train_batch_size=4 // processes,
        gradient_accumulation_steps=2,
        num_iterations=2 if algorithm == "ppo" else 1,
        max_steps=2,
        shuffle_dataset=False,
        bf16=bf16,
        adam_epsilon=1e-4,  # of 1e-8 a gradient that is nothing but rounding makes a full step
        **extra,
    )
    rank = trainer.accelerator.process_index
    trainer._generate_single_turn = lambda ids, *_: COMPLETIONS[rank * len(ids) : (rank + 1) * len(ids)]
    trainer.credited = []
    credit = trainer.credit
    trainer.credit = lambda rollout: trainer.credited.append(credit(rollout)) or trainer.credited[-1]
    if (plugin := trainer.accelerator.state.deepspeed_plugin) is not None:  # else all weights are too small to spread
        plugin.deepspeed_config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    return trainer


def parameters(trainer: Any) -> dict[str, torch.Tensor]:
    """Returns a copy of all weights."""
    with trainer.gathered_policy() as policy:
        return {name: parameter.detach().clone() for name, parameter in policy.named_parameters()}


def train(folder: Path, *options: Any) -> dict[str, Any]:
    """Trains two steps, saves the model, and returns what was seen."""
    trainer = make(*options[:4], folder, *options[4:])
    rank = trainer.accelerator.process_index
    trainer.train()
    trainer.save_model()
    local = trainer.credited[0].advantages
    if local.dim() == 2:  # each process pads to its own longest completion
        local = torch.nn.functional.pad(local, (0, 8 - local.shape[1]))
    gathered = trainer.accelerator.gather(local)
    trained = parameters(trainer)
    with trainer.gathered_policy() as policy:
        again = [policy(torch.tensor([[10, 11 + rank]])).logits for _ in range(1 + rank)]  # not equally often
    logs = [
        {name: value for name, value in log.items() if "time" not in name and "second" not in name}
        for log in trainer.state.log_history[:2]
    ]
    engine = type(trainer.model_wrapped).__name__
    seen = {"advantages": gathered, "parameters": trained, "logs": logs, "engine": engine, "logits": again[0]}
    if getattr(trainer, "fitted", None) is not None:
        seen["moments"] = trainer.fitted._moments
        check_goes_on(trainer, folder, *options)
    return seen


def check_goes_on(straight: Any, folder: Path, *options: Any) -> None:
    """Checks that a run that goes on, PPO in the middle of a rollout, REINFORCE after one, ends with the same bits."""
    resumed = make(*options[:4], folder, *options[4:])
    resumed.train(resume_from_checkpoint=str(folder / "checkpoint-1"))
    assert len(resumed.credited) == (0 if options[0] == "ppo" else 1)
    assert resumed.state.global_step == 2
    assert resumed.fitted.state_dict() == straight.fitted.state_dict()
    found = parameters(resumed)
    assert [name for name, weight in parameters(straight).items() if not torch.equal(found[name], weight)] == []


def main(algorithm: str, critics: str, kind: str, model: str, folder: str, processes: int, bf16: bool) -> None:
    """Trains with each of the critics, one after the other, and writes what was seen of them."""
    seen = {}
    for critic in critics.split():
        torch.manual_seed(0)
        own = Path(folder) / critic
        seen[critic] = train(own, algorithm, critic, kind, model, processes, bf16)
    if int(os.environ.get("RANK", "0")) == 0:
        torch.save(seen, folder + ".pt")


if __name__ == "__main__":
    run(lambda: main(*sys.argv[1:6], int(sys.argv[6]), "bf16" in sys.argv[7:]))
