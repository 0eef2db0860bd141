"""A rollout of eight given completions and two steps on it, under any engine; run by test_engines.py."""

import sys
from pathlib import Path
from typing import Any

import torch
from training import make_trainer

from lmrl.cli import run

COMPLETIONS = [[10, 11, 1], [12, 13, 14, 1], [15, 1], [16] * 8, [17, 18, 1], [19, 1], [1], [20, 21, 22, 23, 1]]


def main(algorithm: str, critic: str, kind: str, model: str, folder: str, processes: int, bf16: bool) -> None:
    """Train two steps, save the model, and write what was seen."""
    extra: dict[str, Any] = {"critic": critic} if algorithm == "ppo" else {}
    if kind == "lora":
        from peft import LoraConfig

        extra["peft_config"] = LoraConfig(r=4, target_modules=["c_attn"], task_type="CAUSAL_LM")
    trainer = make_trainer(
        algorithm,
        model,
        Path(folder),
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
    advantages = []
    credit = trainer.credit
    trainer.credit = lambda rollout: advantages.append(credit(rollout)) or advantages[-1]
    if (plugin := trainer.accelerator.state.deepspeed_plugin) is not None:  # else all weights are too small to spread
        plugin.deepspeed_config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    trainer.train()
    trainer.save_model()
    local = advantages[0].advantages
    if local.dim() == 2:  # each process pads to its own longest completion
        local = torch.nn.functional.pad(local, (0, 8 - local.shape[1]))
    gathered = trainer.accelerator.gather(local)
    with trainer.gathered_policy() as policy:
        parameters = {name: parameter.detach().clone() for name, parameter in policy.named_parameters()}
        again = [policy(torch.tensor([[10, 11 + rank]])).logits for _ in range(1 + rank)]  # not equally often
    if rank == 0:
        logs = [
            {name: value for name, value in log.items() if "time" not in name and "second" not in name}
            for log in trainer.state.log_history[:2]
        ]
        engine = type(trainer.model_wrapped).__name__
        seen = {"advantages": gathered, "parameters": parameters, "logs": logs, "engine": engine, "logits": again[0]}
        torch.save(seen, folder + ".pt")


if __name__ == "__main__":
    torch.manual_seed(0)
    run(lambda: main(*sys.argv[1:6], int(sys.argv[6]), "bf16" in sys.argv[7:]))
