"""What one training step costs: plain torch, TRL's RLOO, and lmrl's REINFORCE and PPO on the same random model.

    python benchmarks/step.py                             # GPT-2 small in float32
    python benchmarks/step.py --precision both --json cost.json
    python benchmarks/step.py --layers 2 --width 128      # a minute, to see that it runs

Each contender lives in a process of its own and makes one step at a time in turn (A B C D A B C D ...), so that a
machine that is slower for a while is so for all of them. The first rounds are thrown away; ratios are medians of the
ratios within a round. All have a reference model, AdamW and 16 completions of 32 tokens: the model never samples its
EOS, and every step is checked. `floor` is what it takes without any trainer: `generate`, a pass of the reference, a
pass of the policy and back, clipping, AdamW.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

CHILD = Path(__file__).with_name("_contender.py")
CONTENDERS = {
    "floor": "plain torch",
    "trl": "trl.RLOOTrainer",
    "reinforce": "lmrl.ReinforceTrainer",
    "ppo": "lmrl.PPOTrainer",
}
STAGES = ("generation", "scoring", "reward", "update", "other")
PRECISIONS = ("fp32", "bf16")
NUM_GENERATIONS = 4
PAUSE = 0.3  # seconds; the threads of a contender that has just answered spin for a while
LEGEND = """\
seconds: median of a step. /floor, /TRL: median over the rounds of the ratio within a round.
peak: {memory}.
Stages in seconds, medians: generation (decoding), scoring (passes without gradient), reward (calling it), update (the
pass with gradient, backward, clipping, AdamW), other (tokens to text and back, padding, statistics)."""
MEMORY = {
    "cpu": "largest resident size of the process in GiB, and that less its size after the imports",
    "cuda": "largest size of tensors on the GPU in GiB",
}


@dataclass(frozen=True)
class Settings:
    """What a contender is told. `folder` holds the model and its tokenizer."""

    folder: str
    precision: str
    threads: int
    steps: int
    layers: int
    width: int
    heads: int
    vocabulary: int
    prompts: int
    prompt_length: int
    new_tokens: int


class Contender:
    """A child process that makes a step when told to. Used as a context manager, it ends with the context."""

    def __init__(self, name: str, settings: Settings, environment: dict[str, str]) -> None:
        self.name = name
        self._log = Path(settings.folder) / f"{name}-{settings.precision}.log"
        replies, theirs = os.pipe()
        command = [sys.executable, str(CHILD), name, json.dumps(asdict(settings)), str(theirs)]
        with self._log.open("w") as log:  # what trainers print; the protocol has a pipe of its own
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[theirs],
                env=environment,
                text=True,
            )
        os.close(theirs)
        self._replies = os.fdopen(replies)

    def __enter__(self) -> "Contender":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._replies.close()

    def receive(self) -> dict[str, Any]:
        """Returns the next reply: one when the contender is ready, then one for each step."""
        line = self._replies.readline()
        if not line:
            tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-30:])
            raise SystemExit(f"error: {self.name} ended with status {self._process.wait()}:\n{tail}")
        return json.loads(line)

    def step(self) -> dict[str, Any]:
        """Returns the reply to one step: its `seconds`, its `stages`, and the `peak` of memory so far, in bytes."""
        if self._process.poll() is None and self._process.stdin is not None:
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        return self.receive()


def parse() -> argparse.Namespace:
    """Returns the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def number(flag: str, default: int | None, text: str, least: int = 1) -> None:
        parser.add_argument(flag, type=_at_least(least), default=default, metavar="N", help=text)

    parser.add_argument("--precision", choices=(*PRECISIONS, "both"), default="fp32", help="(default: %(default)s)")
    parser.add_argument(
        "--only", type=_names, default=list(CONTENDERS), metavar="A,B", help=f"some of {','.join(CONTENDERS)}"
    )
    number("--repeats", 5, "rounds that count (default: %(default)s)")
    number("--warmup", 1, "rounds thrown away before them (default: %(default)s)")
    number("--threads", os.cpu_count(), "threads of torch (default: all cores, %(default)s)")
    number("--layers", 12, "layers of the model (default: %(default)s)")
    number("--width", 768, "hidden size (default: %(default)s)")
    number("--heads", None, "attention heads (default: one for each 64 of the width)")
    number("--vocabulary", 50257, "tokens, the last two being EOS and padding (default: %(default)s)", least=16)
    number("--prompts", 16, f"completions in a step, a multiple of {NUM_GENERATIONS} (default: %(default)s)", least=4)
    number("--prompt-length", 24, "tokens of each prompt (default: %(default)s)")
    number("--new-tokens", 32, "tokens of each completion (default: %(default)s)")
    parser.add_argument("--cpu", action="store_true", help="run on the CPU where there is a GPU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement of every round there")
    arguments = parser.parse_args()
    arguments.heads = arguments.heads or max(arguments.width // 64, 1)
    if arguments.prompts % NUM_GENERATIONS:
        parser.error(f"--prompts {arguments.prompts} is not a multiple of {NUM_GENERATIONS}")
    if arguments.width % arguments.heads:
        parser.error(f"--width {arguments.width} is not a multiple of --heads {arguments.heads}")
    return arguments


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return int(text)

    return number


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(CONTENDERS):
        raise argparse.ArgumentTypeError(f"no contender is called {', '.join(sorted(unknown))}")
    return [name for name in CONTENDERS if name in names]


def settings_for(arguments: argparse.Namespace, precision: str, folder: str) -> Settings:
    """Returns what the contenders of a precision are told."""
    own = {"folder": folder, "precision": precision, "steps": arguments.warmup + arguments.repeats}
    given = {name: value for name, value in vars(arguments).items() if name in Settings.__annotations__}
    return Settings(**(given | own))


def environment_of_children(arguments: argparse.Namespace) -> dict[str, str]:
    """Returns the environment: as many threads for each library, one GPU at most, nothing from the net."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(arguments.threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(CHILD.parents[1]), os.environ.get("PYTHONPATH")])),
    }
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return environment | {"CUDA_VISIBLE_DEVICES": "" if arguments.cpu else first}


def race(arguments: argparse.Namespace, settings: Settings, environment: dict[str, str]) -> dict[str, Any]:
    """Returns the measurements of one precision: about the machine, and of each contender the replies that count."""
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


def summarise(contenders: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Returns a row of the table for each contender."""
    seconds = {name: [reply["seconds"] for reply in replies] for name, replies in contenders.items()}

    def ratio(name: str, base: str) -> float | None:
        if base not in seconds:
            return None
        return median(mine / other for mine, other in zip(seconds[name], seconds[base], strict=True))

    return {
        name: {
            "seconds": median(seconds[name]),
            "ratio_to_floor": ratio(name, "floor"),
            "ratio_to_trl": ratio(name, "trl"),
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
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
    return "\n".join("  ".join(cells) for cells in aligned)


def headline(arguments: argparse.Namespace, precision: str, machine: dict[str, Any]) -> str:
    """Returns what was measured, in two lines."""
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
    environment = environment_of_children(arguments)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="lmrl-benchmark-") as folder:
        with Contender("model", settings_for(arguments, precisions[0], folder), environment) as maker:
            maker.receive()
        for precision in precisions:
            measured = race(arguments, settings_for(arguments, precision, folder), environment)
            summary, machine = summarise(measured["contenders"]), measured["machine"]
            results[precision] = {"machine": machine, "summary": summary, "rounds": measured["contenders"]}
            print(f"{headline(arguments, precision, machine)}\n\n{table(summary, machine['kind'] == 'cuda')}\n")
    print(LEGEND.format(memory=MEMORY[machine["kind"]]))
    if arguments.json:
        told = {name: value for name, value in vars(arguments).items() if name != "json"}
        arguments.json.write_text(json.dumps({"arguments": told, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
