"""
Peak memory of PPO with four models, and with LoRA as more and more of them share one set of base weights.

    python benchmarks/memory.py                            # GPT-2 small in float32
    python benchmarks/memory.py --layers 2 --width 128     # half a minute, to see that it runs
    python benchmarks/memory.py --only full,shared --json memory.json

Each variant trains two steps of PPO in a process of its own, with a policy, a reference, a critic and a reward model
of the same size with random weights, AdamW, and few short completions, so that weights, gradients and optimizer states
are compared. The peak is that of the steps, less that of the imports; loading has a column of its own. On a CPU it is
the largest resident size of the process, on a GPU the largest size of all tensors.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from _common import Settings, add_names, add_numbers, aligned, child_environment, make_parser, write_results

CHILD = Path(__file__).with_name("_footprint.py")
# Without this, glibc would keep freed tensors of up to 32 MiB, which would count as size of the process.
RETURN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**18)}


@dataclass(frozen=True)
class Variant:
    """The models of a run. `reward` is the folder of the reward model."""

    what: str
    lora: bool = True
    reference_shared: bool = True
    critic: Literal["separate", "adapter", "shared"] = "separate"
    reward: Literal["reward_model", "reward_adapter"] = "reward_model"
    four_bits: bool = False


VARIANTS = {
    "full": Variant("all four models, all weights trained", lora=False),
    "lora": Variant("LoRA, all four models", reference_shared=False),
    "reference": Variant("LoRA, reference = adapter off"),
    "critic_adapter": Variant("  + critic = its own adapter", critic="adapter"),
    "critic_shared": Variant("  + critic = head on the policy", critic="shared"),
    "reward_adapter": Variant("  + critic and reward model = adapters", critic="adapter", reward="reward_adapter"),
    "shared": Variant("  + critic = head, reward model = adapter", critic="shared", reward="reward_adapter"),
    "four_bits": Variant(
        "  the last but one, base in 4 bits", critic="adapter", reward="reward_adapter", four_bits=True
    ),
}


def parse() -> argparse.Namespace:
    """Returns the arguments of the command line."""
    parser = make_parser(__doc__)
    add_names(parser, "--only", VARIANTS)
    numbers: dict[str, tuple[int | None, str]] = {
        "layers": (12, "layers of the models"),
        "width": (768, "hidden size"),
        "vocabulary": (50257, "tokens"),
        "prompts": (4, "completions in a step"),
        "prompt_length": (16, "tokens of each prompt"),
        "new_tokens": (16, "tokens of each completion"),
        "threads": (1, "threads of torch"),
    }
    add_numbers(parser, numbers)
    parser.add_argument("--cpu", action="store_true", help="run on the CPU where there is a GPU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements there")
    return parser.parse_args()


def run_child(name: str, settings: Settings, environment: dict[str, str]) -> dict[str, Any]:
    """Runs a child, and returns the JSON in the last line of its output."""
    done = subprocess.run(
        [sys.executable, str(CHILD), name, json.dumps(asdict(settings))],
        capture_output=True,
        env=environment,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"error: {name} ended with status {done.returncode}:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def table(results: dict[str, dict[str, Any]]) -> str:
    """Returns the aligned table, with ratios to the first row."""
    first = next(iter(results.values()))
    rows = [["", "training, MiB", "ratio", "with loading, MiB", "ratio", "trained parameters"]]
    for name, result in results.items():
        figures = []
        for peak in ("training", "with_loading"):
            figures += [f"{result[peak] / 2**20:.0f}", f"{result[peak] / first[peak]:.2f}"]
        rows.append([VARIANTS[name].what, *figures, f"{result['trained'] / 1e6:.1f}M"])
    return aligned(rows)


def main() -> None:
    arguments = parse()
    environment = child_environment(arguments.threads, arguments.cpu) | RETURN_MEMORY
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="lmrl-benchmark-") as folder:
        heads = max(arguments.width // 64, 1)
        settings = Settings.from_arguments(arguments, folder=folder, precision="fp32", steps=2, heads=heads)
        run_child("models", settings, environment)
        for name in arguments.only:
            results[name] = run_child(name, settings, environment)
            print(f"{name}: {results[name]['training'] / 2**20:.0f} MiB", file=sys.stderr)
    print(
        f"PPO on {results[arguments.only[0]]['device']}: {arguments.layers} layers of {arguments.width}, vocabulary "
        f"{arguments.vocabulary}, float32; {arguments.prompts} completions a step, {arguments.prompt_length} + "
        f"{arguments.new_tokens} tokens.\n\n{table(results)}"
    )
    write_results(arguments.json, arguments, results)


if __name__ == "__main__":
    main()
