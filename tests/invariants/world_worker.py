"""One step on eight given completions, by one process or by two; run by test_world.py. Writes what it saw."""

import sys
from typing import Any

import torch
from training import make_trainer
from transformers import TrainerCallback

from lmrl.cli import run
from lmrl.rewards import Length

COMPLETIONS = [[10, 11, 1], [12, 13, 14, 1], [15, 1], [16] * 8, [17, 18, 1], [19, 1], [1], [20, 21, 22, 23, 1]]


class Gradients(TrainerCallback):
    """Keeps a copy of the gradients that the optimiser is about to use."""

    def __init__(self) -> None:
        self.seen: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Called with the gradients reduced over all processes."""
        model = getattr(model, "module", model)
        self.seen.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})


def script_draws(trainer: Any) -> None:
    """Has a trainer sample the given completions; what it samples anew goes by the prompt, whatever the process."""
    rank = trainer.accelerator.process_index
    is_anew: list[bool] = []

    def draw(prompts: list[list[int]], *_: Any) -> list[list[int]]:
        if not is_anew:
            return COMPLETIONS[rank * len(prompts) : (rank + 1) * len(prompts)]
        return [COMPLETIONS[(ids[0] + 3 * prompts[:row].count(ids)) % 8] for row, ids in enumerate(prompts)]

    def choose(*args: Any) -> Any:
        is_anew.append(True)
        sampled = type(trainer).choose_completions(trainer, *args)
        is_anew.clear()
        return sampled

    trainer._generate_single_turn = draw
    trainer.choose_completions = choose


def main(algorithm: str, model: str, out: str, kind: str, processes: int) -> None:
    """Train one rollout of eight completions, two epochs of it for PPO."""
    gradients = Gradients()
    extra: dict[str, Any] = {"kl_target": 1.0, "kl_horizon": 100.0}
    if kind not in ("full", "least_squares", "dense", "shrinkage"):
        from peft import LoraConfig

        extra["peft_config"] = LoraConfig(r=4, target_modules=["c_attn"], task_type="CAUSAL_LM")
    iterations = 2 if algorithm == "ppo" else 1
    if algorithm == "reinforce" and kind == "lora":
        extra |= {"loss_level": "token", "baseline": "group_mean", "scale_rewards": "group", "drop_equal_groups": True}
        extra |= {"equal_groups_tolerance": 0.6, "resample_equal_groups": 1, "target_kl": 1e-6}
        extra |= {"kl_estimator": "exact", "reward": Length(8)}
        iterations = 2
    if kind == "shrinkage":
        extra["baseline"] = "shrinkage"
    if kind == "dense":
        extra |= {"loss_level": "token", "shaping": "progress", "reward": Length(8)}
    if algorithm == "ppo":
        kinds = {"critic_adapter": "adapter", "least_squares": "least_squares"}
        extra["critic"] = kinds.get(kind, "shared")
        own = {
            "lora": {"critic_extra_epochs": 2, "critic_learning_rate": 1e-4},
            "critic_adapter": {"kl_scope": "token", "target_kl": 1e-6},
            "least_squares": {"kl_estimator": "exact"},
        }
        extra |= own.get(kind, {})
    trainer = make_trainer(
        algorithm,
        model,
        out + ".run",
        per_device_train_batch_size=8 // processes,
        num_iterations=iterations,
        max_steps=2,
        max_grad_norm=1e9,
        callbacks=[gradients],
        shuffle_dataset=False,
        **extra,
    )
    script_draws(trainer)
    advantages = []
    credit = trainer.credit
    trainer.credit = lambda rollout: advantages.append(credit(rollout)) or advantages[-1]
    trainer.train()
    local = advantages[0].advantages
    if local.dim() == 2:  # each process pads to its own longest completion
        local = torch.nn.functional.pad(local, (0, 8 - local.shape[1]))
    gathered = trainer.accelerator.gather(local)
    if trainer.accelerator.is_main_process:
        logs = [
            {name: value for name, value in log.items() if "time" not in name and "second" not in name}
            for log in trainer.state.log_history[:2]
        ]
        torch.save({"advantages": gathered, "gradients": gradients.seen, "logs": logs}, out)


if __name__ == "__main__":
    torch.manual_seed(0)
    run(lambda: main(*sys.argv[1:5], int(sys.argv[5])))
