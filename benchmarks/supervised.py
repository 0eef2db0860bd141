"""CPU-seconds of a supervised step with LoRA: TRL's SFTTrainer, sft.py's step, and lmrl's pass with backward.

    python benchmarks/supervised.py                       # SmolLM2-135M's shape with random weights, in bfloat16
    python benchmarks/supervised.py --model ~/models/SmolLM2-135M-Instruct --precision fp32 --json step.json
    python benchmarks/supervised.py --layers 2            # a minute, to see that it runs

All have the same rows and take turns in one process (A B C A B C ...), so that a machine that is slow for a while
slows down all. `pass` has no trainer and no optimizer: it is lmrl's scoring pass of prompts and completions, the mean
loss of the completions and its backward pass. CPU-seconds are user and system time of the process: other load on the
machine changes them less than it changes the clock.
"""

import argparse
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from _common import add_numbers, aligned, make_parser, write_results
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from lmrl.models import add_scoring_forward, backbone_of, share_prompts
from lmrl.supervised import add_supervised_forward

CONTENDERS = ("trl", "sft", "pass")
IGNORED = -100
VOCABULARY = 49_152  # of the random model


def parse() -> argparse.Namespace:
    """Returns the arguments of the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--model", type=Path, help="folder of a model in place of random weights")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16", help="(default: %(default)s)")
    numbers: dict[str, tuple[int | None, str]] = {
        "repeats": (3, "rounds that count, after one that does not"),
        "threads": (1, "threads of torch"),
        "layers": (30, "layers of the random model"),
        "rows": (32, "rows of a step"),
        "prompt_length": (33, "mean number of tokens of a prompt"),
        "new_tokens": (26, "mean number of tokens of a completion"),
    }
    add_numbers(parser, numbers)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement there")
    return parser.parse_args()


def load(arguments: argparse.Namespace) -> Any:
    """Returns the model without an adapter, with the same weights at each call."""
    torch.manual_seed(0)
    if arguments.model is not None:
        return AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "vocab_size": VOCABULARY, "max_position_embeddings": 2048}
    heads = {"num_hidden_layers": arguments.layers, "num_attention_heads": 9, "num_key_value_heads": 3}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, tie_word_embeddings=True))


def lora() -> LoraConfig:
    """Returns the LoRA configuration of all three contenders, on queries and values."""
    return LoraConfig(r=16, task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"])


def draw_rows(arguments: argparse.Namespace) -> list[tuple[list[int], list[int]]]:
    """Returns ids of prompts and completions, with lengths from half to one and a half times the means."""
    config = None if arguments.model is None else AutoConfig.from_pretrained(arguments.model)
    vocabulary = VOCABULARY if config is None else config.get_text_config().vocab_size
    draw = random.Random(0)
    rows = []
    for _ in range(arguments.rows):
        lengths = [
            draw.randint(mean // 2, mean + mean // 2) for mean in (arguments.prompt_length, arguments.new_tokens)
        ]
        rows.append(tuple([draw.randrange(3, vocabulary) for _ in range(length)] for length in lengths))
    return rows


def make_trainer_step(arguments: argparse.Namespace, rows: list[tuple[list[int], list[int]]], fast: bool) -> Any:
    """Returns the training step of TRL's trainer on the rows, unchanged or, if `fast`, prepared as `sft.py` does."""
    from datasets import Dataset
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    words = Tokenizer(WordLevel({"<pad>": 0, "<eos>": 1, "<unk>": 2}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
    tokenized = [
        {"input_ids": prompt + completion, "labels": [IGNORED] * len(prompt) + completion}
        for prompt, completion in rows
    ]
    settings = {"use_cpu": True, "bf16": arguments.precision == "bf16", "gradient_checkpointing": False}
    args = SFTConfig("runs/benchmark", report_to=[], per_device_train_batch_size=len(rows), **settings)
    trainer = SFTTrainer(
        load(arguments),
        args,
        train_dataset=Dataset.from_list(tokenized),
        processing_class=tokenizer,
        peft_config=lora(),
    )
    if fast:
        add_supervised_forward(trainer.model)
    batch = trainer.data_collator(tokenized)
    model = trainer.accelerator.prepare_model(trainer.model)
    trainer.create_optimizer()
    count = torch.tensor(sum(len(completion) for _, completion in rows))

    def step() -> float:
        loss = trainer.training_step(model, dict(batch), count)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        trainer.optimizer.step()
        model.zero_grad()
        return loss.item()

    return step


def make_pass(arguments: argparse.Namespace, rows: list[tuple[list[int], list[int]]]) -> Callable[[], float]:
    """Returns a function that makes lmrl's scoring pass of the rows and the backward pass of their loss."""
    model = load(arguments)
    add_scoring_forward(model)
    share_prompts(backbone_of(model))
    model = get_peft_model(model, lora())
    before = max(len(prompt) for prompt, _ in rows)
    after = max(len(completion) for _, completion in rows)
    ids = torch.zeros((len(rows), before + after), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, (prompt, completion) in enumerate(rows):
        start = before - len(prompt)
        ids[index, start : before + len(completion)] = torch.tensor(prompt + completion)
        mask[index, start : before + len(completion)] = 1

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.precision == "bf16"):
            scored = model(input_ids=ids, attention_mask=mask, completion_length=after)
        loss = -scored.log_probs.sum() / mask[:, -after:].sum()
        loss.backward()
        model.zero_grad()
        return loss.item()

    return step


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    rows = draw_rows(arguments)
    steps = {
        "trl": make_trainer_step(arguments, rows, fast=False),
        "sft": make_trainer_step(arguments, rows, fast=True),
        "pass": make_pass(arguments, rows),
    }
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    for _ in range(1 + arguments.repeats):
        for name, step in steps.items():
            before = os.times()
            started = time.perf_counter()
            loss = step()
            after = os.times()
            cpu = after.user + after.system - before.user - before.system
            measured[name].append({"cpu": cpu, "seconds": time.perf_counter() - started, "loss": loss})
    counted = {name: replies[1:] for name, replies in measured.items()}
    table = [["", "CPU-s", "seconds", "/pass", "first loss"]]
    for name, replies in counted.items():
        ratio = median(own["cpu"] / base["cpu"] for own, base in zip(replies, counted["pass"], strict=True))
        cells = [median(reply[kind] for reply in replies) for kind in ("cpu", "seconds")]
        table.append([name, *(f"{cell:.2f}" for cell in cells), f"{ratio:.2f}", f"{measured[name][0]['loss']:.4f}"])
    tokens = sum(len(prompt) + len(completion) for prompt, completion in rows)
    print(f"{arguments.precision}, {arguments.threads} threads; {len(rows)} rows of {tokens} tokens, of which")
    print(f"{sum(len(completion) for _, completion in rows)} of completions; {arguments.repeats} rounds.\n")
    print(aligned(table))
    print("\nMedians; /pass: median over the rounds of the ratio of CPU-seconds within a round.")
    write_results(arguments.json, arguments, measured)


if __name__ == "__main__":
    main()
