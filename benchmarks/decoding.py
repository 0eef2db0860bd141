"""
Seconds per decoded token and per rollout on a GPU, with `generate`, lmrl's decoding loop, and its CUDA graph.

    python benchmarks/decoding.py                                    # a minute; needs a GPU
    python benchmarks/decoding.py --only gpt2 --ways loop,graph --rows 16 --json decoding.json
    python benchmarks/decoding.py --cpu --only tiny --ways generate,loop,buffers --rows 4 --new-tokens 16

Models have random weights: GPT-2 small, SmolLM2-135M's shape, and that with LoRA on all linear layers. Each row has a
different prompt, and no row ends before the last token, unless `--mean-length` makes some tokens end a completion. The
ways take turns, after one call each that does not count; with a graph, that call captures it. `static` is `generate`
with a static cache and the forward compiled by transformers, which takes a minute for each model.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from _common import add_names, add_numbers, aligned, make_parser, write_results
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, GPT2Config, LlamaConfig

from lmrl.captured import CapturedSteps
from lmrl.drawn import Drawn
from lmrl.models import sampling_together

SMOLLM2 = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}
CONFIGS: dict[str, Callable[[], Any]] = {
    "gpt2": GPT2Config,
    "smollm2": lambda: LlamaConfig(**SMOLLM2),
    "smollm2-lora": lambda: LlamaConfig(**SMOLLM2),
    "tiny": lambda: GPT2Config(n_layer=2, n_embd=64, n_head=4, vocab_size=256),
}
WAYS = {
    "generate": "transformers' generate",
    "static": "generate, static cache, compiled",
    "loop": "lmrl without graphs",
    "graph": "lmrl with graphs",
    "buffers": "lmrl, buffers of a graph without one",
}
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def parse() -> argparse.Namespace:
    """Returns the arguments of the command line."""
    parser = make_parser(__doc__)
    add_names(parser, "--only", CONFIGS)
    add_names(parser, "--ways", WAYS)
    parser.set_defaults(only=["gpt2", "smollm2", "smollm2-lora"], ways=["generate", "loop", "graph"])
    numbers: dict[str, tuple[int | None, str]] = {
        "rows": (64, "completions in a batch"),
        "prompt_length": (64, "tokens of each prompt"),
        "new_tokens": (128, "most tokens of each completion"),
        "repeats": (3, "calls that count"),
        "mean_length": (None, "mean tokens of a completion, which then ends by chance"),
    }
    add_numbers(parser, numbers)
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="precision of the weights")
    parser.add_argument("--cpu", action="store_true", help="run on the CPU where there is a GPU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements there")
    arguments = parser.parse_args()
    if not arguments.cpu and not torch.cuda.is_available():
        parser.error("there is no GPU: --cpu runs on the CPU, which has no graphs.")
    return arguments


def make_model(name: str, dtype: torch.dtype, device: torch.device) -> Any:
    """Returns a model with random weights, in the form in which it decodes in training."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name](), dtype=dtype)
    model.generation_config.eos_token_id = None
    if name.endswith("-lora"):
        options = {"r": 16, "target_modules": "all-linear", "init_lora_weights": False, "task_type": "CAUSAL_LM"}
        model = get_peft_model(model, LoraConfig(**options)).get_base_model().to(dtype)
    return model.to(device).eval()


class Decoder:
    """One way to decode a batch with a model. A call returns the result of `generate`."""

    def __init__(self, way: str, model: Any, arguments: argparse.Namespace) -> None:
        self.way = way
        self.model = model
        self.graphs = CapturedSteps(captures=way == "graph")
        self.record = Drawn()
        vocabulary = model.config.vocab_size
        draw = torch.Generator().manual_seed(1)
        shape = (arguments.rows, arguments.prompt_length)
        self.ids = torch.randint(vocabulary, shape, generator=draw).to(model.device)
        ends = vocabulary // arguments.mean_length if arguments.mean_length else 0
        static = {"cache_implementation": "static"} if way == "static" else {}
        self.config = GenerationConfig(
            max_new_tokens=arguments.new_tokens,
            do_sample=True,
            top_k=0,
            eos_token_id=torch.randperm(vocabulary, generator=draw)[:ends].tolist() or None,
            pad_token_id=0,
            **static,
        )

    def __call__(self) -> Tensor:
        torch.manual_seed(0)
        given = {"input_ids": self.ids, "attention_mask": torch.ones_like(self.ids), "generation_config": self.config}
        self.model.use_cuda_graphs = self.way == "graph"
        with torch.no_grad():
            if self.way in ("generate", "static"):
                return Tensor(self.model.generate(**given))
            graphs = self.graphs if self.way in ("graph", "buffers") else None
            with sampling_together(self.model, self.record, graphs):
                return Tensor(self.model.generate(**given))


def timed(decoder: Decoder) -> tuple[float, Tensor]:
    """Returns the seconds of a call and its result."""
    wait = torch.cuda.synchronize if decoder.ids.is_cuda else lambda: None
    wait()
    begun = time.perf_counter()
    result = decoder()
    wait()
    return time.perf_counter() - begun, result


def measure(name: str, arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Returns the measurements of a model by way."""
    model = make_model(name, DTYPES[arguments.dtype], device)
    decoders = {way: Decoder(way, model, arguments) for way in arguments.ways}
    results: dict[str, Any] = {way: {"seconds": []} for way in decoders}
    sequences: dict[str, Tensor] = {}
    for way, decoder in decoders.items():
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        results[way]["first_seconds"], sequences[way] = timed(decoder)
        results[way]["peak_bytes"] = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
        results[way]["graphs"] = len(decoder.graphs)
    for _ in range(arguments.repeats):
        for way, decoder in decoders.items():
            results[way]["seconds"].append(timed(decoder)[0])
    first = next(iter(sequences.values()))
    for way, found in sequences.items():
        width = min(found.shape[1], first.shape[1])
        results[way]["tokens"] = found.shape[1] - arguments.prompt_length
        same = (found[:, :width] == first[:, :width])[:, arguments.prompt_length :]
        results[way]["same_tokens"] = float(same.float().mean())
    return results


def table(name: str, results: dict[str, Any]) -> str:
    """Returns the aligned table of a model, with the speed relative to the first way."""
    first = median(next(iter(results.values()))["seconds"])
    rows = [[name, "rollout, s", "token, ms", "faster", "first call, s", "peak, MiB", "same tokens"]]
    for way, result in results.items():
        seconds = median(result["seconds"])
        peak = "" if result["peak_bytes"] is None else f"{result['peak_bytes'] / 2**20:.0f}"
        figures = [f"{seconds:.3f}", f"{1000 * seconds / result['tokens']:.2f}", f"{first / seconds:.2f}"]
        what = WAYS[way] + (" (none was captured)" if way == "graph" and not result["graphs"] else "")
        rows.append([what, *figures, f"{result['first_seconds']:.2f}", peak, f"{result['same_tokens']:.3f}"])
    return aligned(rows)


def main() -> None:
    arguments = parse()
    device = torch.device("cpu" if arguments.cpu else "cuda")
    where = "CPU" if arguments.cpu else torch.cuda.get_device_name()
    ends = f", ended after {arguments.mean_length} on the mean" if arguments.mean_length else ""
    print(
        f"Decoding on {where}, {arguments.dtype}: {arguments.rows} rows of {arguments.prompt_length} + "
        f"{arguments.new_tokens} tokens{ends}; medians of {arguments.repeats}.",
        flush=True,
    )
    results = {}
    for name in arguments.only:
        results[name] = measure(name, arguments, device)
        print(f"\n{table(name, results[name])}", flush=True)
    write_results(arguments.json, arguments, results)


if __name__ == "__main__":
    main()
