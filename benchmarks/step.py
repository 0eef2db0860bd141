"""Seconds and memory of a training step: plain torch, TRL's RLOO, lmrl's REINFORCE and PPO on one random model.

    python benchmarks/step.py                             # GPT-2 small in float32
    python benchmarks/step.py --precision both --json cost.json
    python benchmarks/step.py --layers 2 --width 128      # a minute, to see that it runs

Each contender lives in a process of its own and makes one step at a time in turn (A B C D A B C D ...), so that a
machine that is slow for a while slows down all of them. The first rounds are thrown away; ratios are medians of the
ratios within a round. All have a reference model, AdamW and 16 completions of 32 tokens: the model never samples its
EOS, and every step is checked. `floor` has no trainer: `generate`, a pass of the reference, a forward and backward
pass of the policy, clipping, AdamW.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

from _common import (
    NUM_GENERATIONS,
    STAGES,
    Settings,
    add_names,
    add_numbers,
    aligned,
    child_environment,
    make_parser,
    write_results,
)

CHILD = Path(__file__).with_name("_contender.py")
CONTENDERS = {
    "floor": "plain torch",
    "trl": "trl.RLOOTrainer",
    "reinforce": "lmrl.ReinforceTrainer",
    "ppo": "lmrl.PPOTrainer",
}
PRECISIONS = ("fp32", "bf16")
PAUSE = 0.3  # seconds; the threads of a contender that has just made a step spin for a while
LEGEND = """\
seconds: median of a step. /floor, /TRL: median over the rounds of the ratio within a round.
peak: {memory}.
Stages in seconds, medians: generation (decoding), scoring (passes without gradient), reward (calling it), update (the
pass with gradient, backward, clipping, AdamW), other (tokens to text and back, padding, statistics)."""
MEMORY = {
    "cpu": "largest resident size of the process in GiB, and that less its size after the imports",
    "cuda": "largest size of tensors on the GPU in GiB",
}


class Contender:
    """A child process that makes one step at a time. Used as a context manager, it ends with the context."""

    def __init__(self, name: str, settings: Any, environment: dict[str, str], child: Path = CHILD) -> None:
        self.name = name
        self._log = Path(settings.folder) / f"{name}-{settings.precision}.log"
        replies, child_end = os.pipe()
        command = [sys.executable, str(child), name, json.dumps(asdict(settings)), str(child_end)]
        with self._log.open("w") as log:  # for the trainers' output; replies have a pipe of their own
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[child_end],
                env=environment,
                text=True,
            )
        os.close(child_end)
        self._replies = os.fdopen(replies)

    def __enter__(self) -> "Contender":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._replies.close()

    def receive(self) -> dict[str, Any]:
        """Returns the next reply; the contender sends one when it is ready, then one for each step."""
        line = self._replies.readline()
        if not line:
            tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-30:])
            raise SystemExit(f"error: {self.name} ended with status {self._process.wait()}:\n{tail}")
        return json.loads(line)

    def step(self) -> dict[str, Any]:
        """Makes one step, and returns the reply: its `seconds`, `stages`, and the `peak` memory so far, in bytes."""
        if self._process.poll() is None and self._process.stdin is not None:
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        return self.receive()


def parse() -> argparse.Namespace:
    """Returns the arguments of the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--precision", choices=(*PRECISIONS, "both"), default="fp32", help="(default: %(default)s)")
    add_names(parser, "--only", CONTENDERS)
    numbers: dict[str, tuple[int | None, str]] = {
        "repeats": (5, "rounds that count"),
        "warmup": (1, "rounds before them that do not"),
        "threads": (os.cpu_count(), "threads of torch"),
        "layers": (12, "layers of the model"),
        "width": (768, "hidden size"),
        "heads": (None, "attention heads (default: one for each 64 of the width)"),
        "prompt_length": (24, "tokens of each prompt"),
        "new_tokens": (32, "tokens of each completion"),
    }
    add_numbers(parser, numbers)
    add_numbers(parser, {"vocabulary": (50257, "tokens, the last two are EOS and padding")}, least=16)
    add_numbers(parser, {"prompts": (16, f"completions in a step, a multiple of {NUM_GENERATIONS}")}, least=4)
    parser.add_argument("--cpu", action="store_true", help="run on the CPU where there is a GPU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement of every round there")
    arguments = parser.parse_args()
    arguments.heads = arguments.heads or max(arguments.width // 64, 1)
    if arguments.prompts % NUM_GENERATIONS:
        parser.error(f"--prompts must be a multiple of {NUM_GENERATIONS}, got {arguments.prompts}")
    if arguments.width % arguments.heads:
        parser.error(f"--width must be a multiple of --heads {arguments.heads}, got {arguments.width}")
    return arguments


def race(arguments: argparse.Namespace, settings: Settings, environment: dict[str, str]) -> dict[str, Any]:
    """Returns the measurements of one precision: facts about the machine, and the replies that count by contender."""
    replies: dict[str, list[dict[str, Any]]] = {name: [] for name in arguments.only}
    machine: dict[str, Any] = {}
    with ExitStack() as stack:
        contenders = []
        for name in arguments.only:
            contenders.append(stack.enter_context(Contender(name, settings, environment)))
            machine = contenders[-1].receive()
        for turn in range(settings.steps):
            for contender in contenders:
                time.sleep(PAUSE)
                reply = contender.step()
                warm = " (warm-up)" if turn < arguments.warmup else ""
                print(
                    f"{settings.precision}, round {turn + 1} of {settings.steps}{warm}: {contender.name} "
                    f"{reply['seconds']:.2f} s",
                    file=sys.stderr,
                )
                replies[contender.name].append(reply)
    return {"machine": machine, "contenders": {name: rows[arguments.warmup :] for name, rows in replies.items()}}


def paired_ratio(seconds: dict[str, list[float]], name: str, base: str) -> float | None:
    """Returns the median over rounds of one contender's seconds divided by another's; None without the other."""
    if base not in seconds:
        return None
    return median(own / other for own, other in zip(seconds[name], seconds[base], strict=True))


def summarise(contenders: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Returns a row of the table for each contender."""
    seconds = {name: [reply["seconds"] for reply in replies] for name, replies in contenders.items()}

    return {
        name: {
            "seconds": median(seconds[name]),
            "ratio_to_floor": paired_ratio(seconds, name, "floor"),
            "ratio_to_trl": paired_ratio(seconds, name, "trl"),
            "peak_bytes": replies[-1]["peak"],
            "peak_bytes_less_imports": replies[-1]["peak"] - replies[-1]["imported"],
            "stages": {stage: median(reply["stages"][stage] for reply in replies) for stage in STAGES},
        }
        for name, replies in contenders.items()
    }


def table(summary: dict[str, dict[str, Any]], on_gpu: bool) -> str:
    """Returns the aligned table of one precision."""
    rows = [["", "seconds", "/floor", "/TRL", "peak", *([] if on_gpu else ["-imports"]), *STAGES]]
    for name, row in summary.items():
        ratios = [row["ratio_to_floor"], row["ratio_to_trl"]]
        peaks = [row["peak_bytes"]] if on_gpu else [row["peak_bytes"], row["peak_bytes_less_imports"]]
        rows.append(
            [
                CONTENDERS[name],
                f"{row['seconds']:.3f}",
                *("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
                *(f"{peak / 2**30:.2f}" for peak in peaks),
                *(f"{row['stages'][stage]:.3f}" for stage in STAGES),
            ]
        )
    return aligned(rows)


def headline(arguments: argparse.Namespace, precision: str, machine: dict[str, Any]) -> str:
    """Returns a description of the measurement, in two lines."""
    return (
        f"{precision} on {machine['device']}, {machine['threads']} threads, torch {machine['torch']}, TRL "
        f"{machine['trl']}; {machine['parameters'] / 1e6:.1f}M parameters ({arguments.layers} layers of "
        f"{arguments.width}, vocabulary {arguments.vocabulary});\n{arguments.prompts} completions a step, "
        f"{arguments.prompt_length} + {arguments.new_tokens} tokens; {arguments.repeats} rounds after "
        f"{arguments.warmup} thrown away."
    )


def main() -> None:
    arguments = parse()
    precisions = PRECISIONS if arguments.precision == "both" else (arguments.precision,)
    environment = child_environment(arguments.threads, arguments.cpu)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="lmrl-benchmark-") as folder:
        steps = arguments.warmup + arguments.repeats
        settings = Settings.from_arguments(arguments, folder=folder, precision=precisions[0], steps=steps)
        with Contender("model", settings, environment) as maker:
            maker.receive()
        for precision in precisions:
            measured = race(arguments, replace(settings, precision=precision), environment)
            summary = summarise(measured["contenders"])
            machine = measured["machine"]
            results[precision] = {"machine": machine, "summary": summary, "rounds": measured["contenders"]}
            print(f"{headline(arguments, precision, machine)}\n\n{table(summary, machine['kind'] == 'cuda')}\n")
    print(LEGEND.format(memory=MEMORY[machine["kind"]]))
    write_results(arguments.json, arguments, results)


if __name__ == "__main__":
    main()
