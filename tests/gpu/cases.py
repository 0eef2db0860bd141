"""
Every way to train and to evaluate, on one GPU: nothing is on the wrong device, and resuming is exact.

    python cases.py [--pretend] RESULTS GROUP ...

runs the cases of some groups in one process, and writes to RESULTS, as JSON, the error of each, null where it passed.
"""

import importlib.util
import json
import logging
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
from peft import get_peft_model
from tiny import tiny_tokenizer
from torch_flash import registered
from training import PROMPTS, make_trainer
from transformers import GenerationConfig

from lmrl import ReinforceTrainer, rewards
from lmrl.captured import CapturedSteps
from lmrl.drawn import Drawn
from lmrl.evaluation import CompletionStore, Decoding, Evaluation, evaluate_model
from lmrl.models import (
    add_scoring_forward,
    backbone_of,
    check_scoring_forward,
    load_model,
    sampling_together,
    write_merged,
)
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


def with_flash(folder: str = LLAMA, name: str | None = None) -> Any:
    """Returns a model with flash attention, the newest that is installed, or the one registered under a name."""
    if name is None:
        has_newer = importlib.util.find_spec("flash_attn_interface") is not None
        newest = "flash_attention_3" if has_newer else "flash_attention_2"
        return load_model(folder, dtype="bfloat16", device=GPU, attn_implementation=newest)
    model = load_model(folder)
    model.config._attn_implementation = name  # `from_pretrained` would look for a package
    return model


def flash_in_torch(**options: Any) -> None:
    """Trains with attention of the interface of flash kernels: nothing that separates sequences is on the CPU."""
    with registered("flash_in_torch") as attention:
        model = with_flash(name="flash_in_torch")
        train(model=lambda: model, **options)
        assert model.model.pass_form == "flash"
        assert attention.bounds


def flash_is_the_plain_pass(folder: str) -> None:
    """In bfloat16 the pass with flash attention is the plain one to rounding, and no sequence sees another."""
    model = with_flash(folder).eval()
    add_scoring_forward(model)
    check_scoring_forward(model, 1.0, "auto")
    backbone = backbone_of(model)
    assert backbone.pass_form == "flash"
    ids = torch.randint(3, 60, (8, 24), generator=torch.Generator().manual_seed(1)).to(GPU)
    mask = (torch.arange(24, device=GPU) < torch.arange(13, 21, device=GPU)[:, None]).long()
    mask[:4, :5] = 0
    found = []
    for form in ("flash", None):
        backbone.pass_form = form
        model.zero_grad()
        log_probs = model(input_ids=ids, attention_mask=mask, completion_length=12).log_probs
        log_probs.sum().backward()
        found.append((log_probs, torch.cat([weight.grad.flatten().float() for weight in model.parameters()])))
    (log_probs, gradient), (plain, expected) = found
    assert torch.allclose(log_probs, plain, atol=0.1)
    assert (gradient - expected).norm() < 0.1 * expected.norm()
    backbone.pass_form = "flash"
    ids[2, 5:] = (ids[2, 5:] + 1) % 60
    changed = model(input_ids=ids, attention_mask=mask, completion_length=12).log_probs
    others = [0, 1, 3, 4, 5, 6, 7]
    assert torch.equal(changed[others], log_probs[others])


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
    # Few completions end, and a fitted critic has few others to value them by.
    "ppo without cut completions": {
        "mask_truncated_completions": True,
        "critic": "shared",
        "max_completion_length": 40,
    },
    "ppo with a static cache": {"cache_implementation": "static"},
    "ppo with a device map": {"model": lambda: load_model(LLAMA, device_map="cuda")},
    **{
        f"reinforce, baseline {baseline}": {"algorithm": "reinforce", "baseline": baseline}
        for baseline in ("none", "batch_mean", "leave_one_out", "shrinkage", "moving_average", "greedy")
    },
    **{
        f"reinforce, dense rewards, baseline {baseline}": {
            "algorithm": "reinforce",
            "baseline": baseline,
            "loss_level": "token",
            "shaping": "progress",
            "reward": lambda: rewards.Length(4),
        }
        for baseline in ("moving_average", "greedy", "critic")
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


# -- CUDA graphs and kernels, on a real GPU --------------------------------------------------------------------------


def sample(model: Any, graphs: CapturedSteps | None = None, new: int = 40) -> tuple[torch.Tensor, ...]:
    """Returns sampled ids of 8 rows, their log-probabilities and states, and the random numbers after them."""
    ids = torch.randint(3, 64, (4, 9), generator=torch.Generator().manual_seed(1)).repeat_interleave(2, dim=0).to(GPU)
    mask = torch.ones_like(ids)
    mask[:2, :3] = 0
    config = GenerationConfig(max_new_tokens=new, do_sample=True, top_k=0, eos_token_id=[1, 7], pad_token_id=0)
    record = Drawn(with_states=True)
    torch.manual_seed(5)
    with torch.no_grad(), sampling_together(model, record, graphs):
        found = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    width = found.shape[1] - 9
    ends = torch.isin(found[:, 9:], torch.tensor([1, 7], device=GPU)).int()
    kept = ends.cumsum(1) - ends == 0
    log_probs, states = record.take(width)
    return found, log_probs * kept, states * kept[:, :, None], torch.rand(4, device=GPU)


def without_graphs(model: Any, new: int = 40) -> tuple[torch.Tensor, ...]:
    """Returns what the plain loop samples."""
    model.use_cuda_graphs = False
    found = sample(model, new=new)
    model.use_cuda_graphs = True
    return found


def graph_is_used_again(model: Any, lora_layers: bool = False) -> None:
    """A graph draws as the plain loop, also with other weights in the same memory; other memory has another graph."""
    model = load_model(model, device=GPU, dtype="float32").eval()
    if lora_layers:
        model = get_peft_model(model, lora(init_lora_weights=False)).get_base_model()
    graphs = CapturedSteps()
    for _ in range(2):
        for found, expected in zip(sample(model, graphs), without_graphs(model), strict=True):
            assert torch.allclose(found, expected, atol=1e-4), (found, expected)
        assert len(graphs) == 1
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(0.9)
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.clone())
    assert torch.equal(sample(model, graphs)[0], without_graphs(model)[0])
    assert len(graphs) == 2
    graphs.clear()


def graph_in_bfloat16() -> None:
    """Log-probabilities and states are those of the plain loop, to rounding, where tokens are."""
    model = load_model(LLAMA, device=GPU, dtype="bfloat16").eval()
    graphs = CapturedSteps()
    found = sample(model, graphs, new=2)
    expected = without_graphs(model, new=2)
    assert len(graphs) == 1
    same = (found[0] == expected[0]).all(dim=1)
    assert same.sum() >= 6
    assert (found[1] - expected[1])[same].abs().max() < 0.1
    assert (found[2] - expected[2])[same].abs().max() < 0.1


def refused(change: Callable[[Any], Any], reason: str) -> None:
    """Where a forward cannot be captured, the plain loop goes on as if nothing had been tried."""
    model = load_model(LLAMA, device=GPU, dtype="float32").eval()
    change(model)
    expected = without_graphs(model)
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("lmrl.captured").addHandler(handler)
    found = sample(model, CapturedSteps())
    logging.getLogger("lmrl.captured").removeHandler(handler)
    assert len(lines) == 1 and reason in lines[0], lines
    assert model.use_cuda_graphs is False
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


CAPTURING = torch.cuda.is_current_stream_capturing


def wait(model: Any) -> None:
    """Has a forward read a number from the GPU."""
    model.lm_head.register_forward_pre_hook(lambda _, inputs: (inputs[0] * float(inputs[0].isfinite().all()),))


def wait_unseen(model: Any) -> None:
    """Has a forward wait in a way that only the capture notices."""
    model.lm_head.register_forward_pre_hook(lambda *_: torch.cuda.synchronize() if CAPTURING() else None)


def differ(model: Any) -> None:
    """Has a forward differ from call to call, but for the first tokens."""
    calls: list[int] = []
    model.lm_head.register_forward_pre_hook(
        lambda _, inputs: (inputs[0] * (1 if not CAPTURING() else 1 + len(calls)), calls.append(1))[:1]
    )
    calls.append(1)


def trains_alike() -> None:
    """In float32 a run with graphs has the weights and logs of one without."""
    logs = []
    weights = []
    for use in (True, False):
        options = {"bf16": False, "max_steps": 3, "num_iterations": 1, "max_completion_length": 24}
        trainer = trainer_of(folder=f"graphs{use}", use_cuda_graphs=use, **options)
        trainer.train()
        assert bool(len(trainer._decoding.graphs)) is use
        logs.append([log["reward"] for log in trainer.state.log_history if "reward" in log])
        weights.append([weight.detach().clone() for weight in trainer.model.parameters()])
        with trainer.gathered_policy():
            assert len(trainer._decoding.graphs) == 0
    assert logs[0] == logs[1]
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(*weights, strict=True))


def gradients_of_padding() -> None:
    """Over 64 positions, with padding on the left, gradients in bfloat16 are finite, and near those in float32."""
    make_trainer("reinforce", LLAMA, FOLDER / "padding", use_cpu=False)
    model = load_model(LLAMA, device=GPU)
    ids = torch.randint(3, 64, (8, 64), generator=torch.Generator().manual_seed(1)).to(GPU)
    mask = (torch.arange(64, device=GPU) >= torch.arange(8, device=GPU)[:, None]).long()
    gradients = []
    for enabled in (True, False):
        model.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=enabled):
            logits = model(input_ids=ids, attention_mask=mask).logits
        torch.nn.functional.cross_entropy(logits[:, 20:-1].flatten(0, 1).float(), ids[:, 21:].flatten()).backward()
        gradients.append(torch.cat([weight.grad.flatten() for weight in model.parameters()]))
    assert (gradients[0] - gradients[1]).norm() < 0.05 * gradients[1].norm()  # not of NaN


GROUPS: dict[str, dict[str, Callable[[], None]]] = {
    "training": {
        **{name: partial(train, **options) for name, options in TRAINING.items()},
        "ppo with flash attention": partial(flash_in_torch, critic="separate"),
    },
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
    "attention": {"gradients of padding": gradients_of_padding},
    "flash": {
        "passes of Llama": partial(flash_is_the_plain_pass, LLAMA),
        "passes of GPT-2": partial(flash_is_the_plain_pass, GPT2),
        "ppo": partial(train, model=with_flash),
        "ppo, separate critic": partial(train, model=with_flash, critic="separate"),
        "ppo, LoRA, checkpointing": partial(
            train, model=with_flash, **LORA, critic="adapter", gradient_checkpointing=True
        ),
    },
    "graphs": {
        "of GPT-2": partial(graph_is_used_again, GPT2),
        "of Llama": partial(graph_is_used_again, LLAMA),
        "with LoRA": partial(graph_is_used_again, LLAMA, lora_layers=True),
        "in bfloat16": graph_in_bfloat16,
        "that would wait": partial(refused, wait, "synchroniz"),
        "that waits when captured": partial(refused, wait_unseen, "captur"),
        "that would draw": partial(refused, lambda model: model.train(), "its forward draws random numbers"),
        "that differs": partial(refused, differ, "its logits differ by"),
        "in training": trains_alike,
    },
}


def main(results: str, *groups: str) -> None:
    """Runs the cases of some groups."""
    errors: dict[str, str | None] = {}
    for group in groups:
        for name, case in GROUPS[group].items():
            torch.manual_seed(0)
            begun = time.perf_counter()
            error = None
            try:
                case()
            except Exception:
                error = traceback.format_exc()
            errors[f"{group}: {name}"] = error
            print(f"{group}: {name}, {time.perf_counter() - begun:.1f} s {error or ''}", flush=True)
    Path(results).write_text(json.dumps(errors), encoding="utf-8")


if __name__ == "__main__":  # workers import this file again
    main(*(argument for argument in sys.argv[1:] if argument != "--pretend"))
