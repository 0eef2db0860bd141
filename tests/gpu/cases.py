"""
Every way to train and to evaluate, on one GPU: nothing is on the wrong device, and resuming is exact.

    python cases.py [--pretend] RESULTS GROUP ...

runs the cases of some groups in one process, and writes to RESULTS, as JSON, the error of each, null where it passed.
"""

import json
import runpy
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu import pretended
from gpu.counting import GPUWork
from launching import RECIPES

if "--pretend" in sys.argv:
    pretended.install()

from datasets import Dataset
from gpu.models import FOLDER, GPT2, LLAMA, adapted, bert, classifier, lora, scorer
from tiny import tiny_tokenizer
from training import PROMPTS, make_trainer

from lmrl import ReinforceTrainer, rewards
from lmrl.evaluation import CompletionStore, Decoding, Evaluation, evaluate_model
from lmrl.models import load_model, write_merged
from lmrl.trainers import Credit, Rollout

GPU = torch.device("cuda", 0)
ROWS = [{"prompt": prompt, "references": ["a b c"]} for prompt in PROMPTS]


# -- training --------------------------------------------------------------------------------------------------------


def trainer_of(algorithm: str = "ppo", model: Any = LLAMA, folder: str = "out", **options: Any) -> Any:
    """Returns a trainer on the GPU, in the precision that is the default there."""
    on_gpu = {"use_cpu": False, "bf16": None, "train_dataset": Dataset.from_list(ROWS)}
    return make_trainer(algorithm, model, FOLDER / folder, **{**on_gpu, **options})


def train(**options: Any) -> None:
    """Trains two steps. An option that is a function is called when the case begins."""
    given = {name: value() if callable(value) else value for name, value in options.items()}
    trainer = trainer_of(**given)
    trainer.train()
    rewards_used = [value for reward in trainer.reward_funcs for value in vars(reward.reward_func).values()]
    modules = [
        value for value in (trainer.model, trainer.ref_model, *rewards_used) if isinstance(value, torch.nn.Module)
    ]
    tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    assert {tensor.device for tensor in tensors} == {GPU}
    assert all(tensor.isfinite().all() for tensor in tensors)
    log = trainer.state.log_history[0]
    assert log["grad_norm"] > 0
    if trainer.ref_model is not None and trainer.args.reference_model_name_or_path is None:
        assert abs(log["kl"]) < 1e-6


LORA = {"peft_config": lora}
BF16 = {"model": lambda: load_model(LLAMA, dtype="bfloat16")}
FP16 = {"fp16": True, "bf16": False}
MINIBATCHES = {"steps_per_generation": 2, "per_device_train_batch_size": 4}
LARGE_MOVES = {"max_kl": 100.0, "kl_target": 1.0}
TRAINING: dict[str, dict[str, Any]] = {
    "ppo": {},
    "ppo of GPT-2": {"model": GPT2},
    "ppo, critic as a head": {"critic": "shared"},
    "ppo in float32": {"bf16": False},
    "ppo in fp16": {**FP16, "max_steps": 4},
    "ppo with weights in bfloat16": BF16,
    "ppo, LoRA on weights in bfloat16": {**BF16, **LORA, "critic": "adapter"},
    "ppo, LoRA": LORA,
    "ppo, LoRA and a critic of its own": {**LORA, "critic": "separate"},
    "ppo, critic as an adapter, checkpointing": {**LORA, "critic": "adapter", "gradient_checkpointing": True},
    "ppo, adapter trained further": {"model": adapted},
    "ppo, separate critic": {"critic": "separate"},
    "ppo, critic from a reward model": {
        "critic": "separate",
        "critic_model_name_or_path": lambda: scorer("critic"),
    },
    "ppo in minibatches": {**MINIBATCHES, "max_steps": 4},
    "ppo with accumulated gradients": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4},
    "ppo without a reference": {"beta": 0.0},
    "ppo with another reference": {"reference_model_name_or_path": GPT2},
    "ppo with a reference that follows": {"sync_ref_model": True, "ref_model_sync_steps": 1},
    "ppo with every option of the loss": {**LARGE_MOVES, "missing_eos_penalty": 1.0, "entropy_coef": 0.01},
    # One completion ends, with the reward 0, which a fitted critic has no other to value by.
    "ppo without cut completions": {"mask_truncated_completions": True, "critic": "shared"},
    "ppo with a static cache": {"cache_implementation": "static"},
    "ppo with a device map": {"model": lambda: load_model(LLAMA, device_map="cuda")},
    **{
        f"reinforce, baseline {baseline}": {"algorithm": "reinforce", "baseline": baseline}
        for baseline in ("none", "batch_mean", "leave_one_out", "moving_average", "greedy")
    },
    "reinforce of several updates": {"algorithm": "reinforce", **MINIBATCHES, "num_iterations": 2, "max_steps": 4},
    "reinforce, normalized and clipped": {
        "algorithm": "reinforce",
        "normalize_advantages": True,
        "reward_clip_range": (0.0, 1.0),
    },
    "reinforce, reentrant checkpointing": {
        "algorithm": "reinforce",
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": True},
    },
}


def resume(algorithm: str = "ppo", at: int = 2, **options: Any) -> None:
    """Trains four steps, and from a checkpoint again: the weights are the same to the last bit."""
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 1, **options}
    straight = trainer_of(algorithm, folder="straight", **options)
    straight.train()
    torch.manual_seed(99)
    again = trainer_of(algorithm, folder="again", **options)
    again.train(resume_from_checkpoint=str(FOLDER / "straight" / f"checkpoint-{at}"))
    expected = dict(straight.model.named_parameters())
    assert [name for name, weight in again.model.named_parameters() if not torch.equal(weight, expected[name])] == []


def merge() -> None:
    """Writes an adapter trained on the GPU into its base."""
    trainer = trainer_of(peft_config=lora(), folder="merge")
    trainer.train()
    trainer.save_model()
    merged = dict(load_model(write_merged(FOLDER / "merge", dtype="float32")).named_parameters())
    expected = dict(trainer.model.merge_and_unload().named_parameters())
    assert all(torch.allclose(weight, expected[name].cpu(), atol=1e-6) for name, weight in merged.items())


class CreditOnCPU(ReinforceTrainer):
    """A trainer with an error: its advantages are on the CPU."""

    def credit(self, rollout: Rollout) -> Credit:
        credit = super().credit(rollout)
        return replace(credit, advantages=credit.advantages.cpu())


def planted_errors() -> None:
    """A tensor on the wrong device raises, in an operator and in a trainer."""
    on_gpu = torch.ones(2, 2, device=GPU)
    on_cpu = torch.ones(2, 2)
    for operate in (
        lambda: on_gpu + on_cpu,
        lambda: on_gpu @ on_cpu,
        lambda: torch.cat([on_gpu, on_cpu]),
        lambda: torch.nn.functional.embedding(torch.tensor([1]), on_gpu),
        lambda: torch.multinomial(on_gpu, 1, generator=torch.Generator()),
        lambda: on_cpu[torch.ones(1, dtype=torch.long, device=GPU)],
    ):
        check_raises(operate)
    trainer = trainer_of("reinforce")
    trainer.__class__ = CreditOnCPU
    check_raises(trainer.train)
    assert (on_gpu * torch.tensor(2.0)).sum() == 8  # CUDA takes a scalar of the CPU


def check_raises(call: Callable[[], Any]) -> None:
    """Checks that a call raises an error that names the device."""
    try:
        call()
    except RuntimeError as error:
        assert "device" in str(error), error
    else:
        raise AssertionError("Nothing was raised.")


# -- rewards ---------------------------------------------------------------------------------------------------------


REWARDS: dict[str, dict[str, Any]] = {
    **{
        f"classifier's {output}": {"reward": partial(classifier, output), "max_steps": 1}
        for output in ("probability", "logit", "log_odds", "margin")
    },
    "reward model": {"reward": lambda: rewards.RewardModel(scorer("reward"))},
    "reward model on the policy's base": {
        **LORA,
        "reward": lambda: rewards.RewardModel(scorer("shared", adapter=True)),
        "critic": "adapter",
    },
    "reward model on the policy's base in bfloat16": {
        **LORA,
        **BF16,
        "reward": lambda: rewards.RewardModel(scorer("shared", adapter=True)),
    },
    "reward model on a base of its own": {
        "model": GPT2,
        "reward": lambda: rewards.RewardModel(scorer("own", adapter=True)),
    },
    "fluency": {"reward": lambda: rewards.Fluency(GPT2)},
    "BERTScore": {"reward": lambda: rewards.BERTScore(bert(), layer=1)},
    "normalized and cached": {
        "reward": lambda: [rewards.Normalized(rewards.Length(5)), rewards.Cached(rewards.BLEU())]
    },
}


# -- evaluation ------------------------------------------------------------------------------------------------------


def evaluate(model: Any = None, store: CompletionStore | None = None, **decoding: Any) -> Evaluation:
    """Returns an evaluation with all models on the GPU."""
    onlooker = load_model(LLAMA, device=GPU)
    return evaluate_model(
        onlooker if model is None else model,
        tiny_tokenizer(),
        ROWS,
        Decoding(max_new_tokens=5, **decoding),
        reference_model=onlooker,
        perplexity_model=(onlooker, tiny_tokenizer()),
        store=store,
        progress=False,
    )


def evaluate_sampled() -> None:
    """Sampling has a seed of its own, with a store and without, and leaves the generators of training alone."""
    before = (torch.get_rng_state(), torch.cuda.get_rng_state())
    plain = evaluate(do_sample=True, num_samples=2)
    stored = evaluate(do_sample=True, num_samples=2, store=CompletionStore(FOLDER / "store", "x"))
    assert torch.equal(torch.get_rng_state(), before[0]) and torch.equal(torch.cuda.get_rng_state(), before[1])
    assert plain.completions == stored.completions
    assert plain.values == stored.values
    again = evaluate(do_sample=True, num_samples=2, store=CompletionStore(FOLDER / "store", "x"))
    assert again.completions == stored.completions


def evaluate_beams() -> None:
    assert evaluate(num_beams=2).values["kl"] == 0


def evaluate_in_training() -> None:
    """A policy is evaluated between steps, and the best one is loaded at the end."""
    options = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    trainer = trainer_of(
        folder="best",
        eval_dataset=Dataset.from_list(ROWS),
        held_out_metrics=lambda policy: evaluate(policy).values,
        load_best_model_at_end=True,
        metric_for_best_model="bleu",
        **options,
    )
    trainer.train()
    assert len([log for log in trainer.state.log_history if "eval_kl" in log]) == 2
    assert Path(trainer.state.best_model_checkpoint).is_dir()


def evaluate_rewards() -> None:
    """The reward of sampled completions, which is what is measured by default."""
    trainer = trainer_of(eval_dataset=Dataset.from_list(ROWS), per_device_eval_batch_size=4, max_steps=1)
    trainer.train()
    assert 0 < trainer.evaluate()["eval_reward"] < 1


# -- recipes of supervised training ----------------------------------------------------------------------------------

LABELS = [{"text": "a b c", "label": 0}, {"text": "x y", "label": 1}] * 10
PAIRS = [{"prompt": prompt, "chosen": " a b", "rejected": " c d e"} for prompt in PROMPTS] * 3


def run_recipe(name: str, rows: list[dict[str, Any]], *options: str) -> None:
    """Runs a recipe in this process, for two steps."""
    dataset = FOLDER / f"{name}.jsonl"
    dataset.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    few = "--max_steps 2 --report_to none --save_strategy no --disable_tqdm true"
    places = ["--dataset_name", str(dataset), "--output_dir", str(FOLDER / name)]
    path = RECIPES / f"{name}.py"
    sys.argv = [str(path), *few.split(), *places, *options]
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as stopped:
        assert not stopped.code
    assert (FOLDER / name / "model.safetensors").is_file()


# -- counts ----------------------------------------------------------------------------------------------------------


def waits_and_uploads(critic: str, most_waits: int, most_uploads: int) -> None:
    """With its rollout an update waits twice per token and `most_waits` times besides, the second on it 12 times."""
    tokens = 8
    steps = {"num_iterations": 2, "max_steps": 4, "startup_checks": False}
    trainer = trainer_of(critic=critic, max_completion_length=tokens, **steps)
    step = trainer.training_step
    seen = []

    def counted(*args: Any) -> torch.Tensor:
        with GPUWork() as work:
            loss = step(*args)
        seen.append(work)
        return loss

    trainer.training_step = counted
    trainer.train()
    for rollout, update in (seen[:2], seen[2:]):
        assert rollout.waits <= 2 * tokens + most_waits, rollout.waits
        assert rollout.uploads <= most_uploads, rollout.uploads
        assert update.waits <= 12, update.waits
        assert update.uploads == 0, update.uploads


def waits_of_rewards() -> None:
    """A reward by a model waits a few times for each batch, not for each text."""
    for reward in (
        classifier("probability"),
        rewards.RewardModel(scorer("reward")),
        rewards.Fluency(GPT2),
        rewards.BERTScore(bert(), layer=1),
    ):
        waits = {}
        for texts in (8, 16):
            columns = {
                "prompts": ["a b"] * texts,
                "completions": ["c d e"] * texts,
                "references": [["a", "b"]] * texts,
            }
            reward(**columns)  # loads the model
            with GPUWork() as work:
                reward(**columns)
            waits[texts] = work.waits
        assert waits[8] == waits[16] <= 5, waits


GROUPS: dict[str, dict[str, Callable[[], None]]] = {
    "training": {name: partial(train, **options) for name, options in TRAINING.items()},
    "rewards": {name: partial(train, **options) for name, options in REWARDS.items()},
    "evaluation": {
        "sampled and stored": evaluate_sampled,
        "beams": evaluate_beams,
        "in training": evaluate_in_training,
        "rewards by default": evaluate_rewards,
        "merged adapter": merge,
    },
    "resuming": {
        "ppo": resume,
        "within a rollout": partial(resume, at=3, **MINIBATCHES),
        "fp16": partial(resume, **FP16),
        "moving average": partial(resume, "reinforce", baseline="moving_average"),
    },
    "recipes": {
        "classifier": partial(run_recipe, "train_classifier", LABELS),
        "reward model": partial(run_recipe, "train_reward_model", PAIRS, "--model_name_or_path", LLAMA),
        "supervised": partial(
            run_recipe, "sft", ROWS, "--model_name_or_path", LLAMA, "--reference_column", "references"
        ),
    },
    "counts": {
        "of training, critic as a head": partial(waits_and_uploads, "shared", most_waits=65, most_uploads=9),
        "of training, critic fitted": partial(waits_and_uploads, "least_squares", most_waits=76, most_uploads=10),
        "of rewards": waits_of_rewards,
    },
    "planted": {"errors": planted_errors},
}


def main(results: str, *groups: str) -> None:
    """Runs the cases of some groups."""
    errors: dict[str, str | None] = {}
    for group in groups:
        for name, case in GROUPS[group].items():
            torch.manual_seed(0)
            begun = time.perf_counter()
            try:
                case()
                errors[f"{group}: {name}"] = None
            except Exception:
                errors[f"{group}: {name}"] = traceback.format_exc()
            print(f"{group}: {name}, {time.perf_counter() - begun:.1f} s", flush=True)
    Path(results).write_text(json.dumps(errors), encoding="utf-8")


if __name__ == "__main__":  # workers import this file again
    main(*(argument for argument in sys.argv[1:] if argument != "--pretend"))
