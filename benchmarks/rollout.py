"""Seconds, memory and positions of a rollout and its update with uneven lengths: plain torch, lmrl, TRL's RLOO.

    python benchmarks/rollout.py                                  # five workloads, 50 minutes
    python benchmarks/rollout.py --against HEAD~20 --json cost.json
    python benchmarks/rollout.py --workloads e2e --picture cost.svg
    python benchmarks/rollout.py --small --repeats 1              # two minutes, to see that it runs
    python benchmarks/rollout.py --attention flash_attention_2    # on a GPU, with weights in bfloat16

Each contender lives in a process of its own and makes one step at a time in turn (A B C D A B C D ...); ratios are
medians of the ratios within a round. The model has random weights and ends its completions after a number of tokens
that has the distribution of the workload. `floor` is plain torch that computes only the useful positions: each
distinct prompt once, no rows that have ended, and passes without padding. `--against` adds lmrl at another commit.
lmrl splits its passes itself; with GPT-2 small TRL gets the completions in several batches, since a single one needs
more than 14 GiB.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from _common import ROOT, STAGES, add_names, add_numbers, aligned, child_environment, make_parser, write_results
from _rollout import Workload
from step import MEMORY, PAUSE, Contender, paired_ratio

CHILD = Path(__file__).with_name("_rollout.py")
CONTENDERS = ("floor", "reinforce", "ppo", "trl")
LENGTHS: dict[str, Any] = {"prompt_low": 12, "prompt_high": 46, "mean": 24.0, "deviation": 8.0, "longest": 80}
LONG: dict[str, Any] = {"prompt_low": 300, "prompt_high": 400, "mean": 40.0, "deviation": 10.0, "longest": 60}
TINY: dict[str, Any] = {
    "layers": 1,
    "width": 64,
    "heads": 4,
    "vocabulary": 512,
    "prompts": 4,
    "mean": 6.0,
    "longest": 12,
}
SMALL: dict[str, Any] = {"architecture": "gpt2", "layers": 12, "width": 768, "heads": 12, "vocabulary": 50257}
LLAMA: dict[str, Any] = {"architecture": "llama", "layers": 30, "width": 576, "heads": 9, "vocabulary": 49152}
WORKLOADS = {
    "e2e": Workload("E2E-like, GPT-2 of 4 layers of 256", "gpt2", 4, 256, 4, 2048, 32, 4, **LENGTHS),
    "gpt2": Workload("E2E-like, GPT-2 small", **SMALL, prompts=32, group=4, **LENGTHS, trl_batch=32),
    "long": Workload("Long prompts, GPT-2 small", **SMALL, prompts=4, group=8, **LONG, trl_batch=8),
    "lora": Workload("LoRA in bf16", **LLAMA, prompts=16, group=4, **LENGTHS, lora=True, precision="bf16"),
    "full-bf16": Workload("The full model in bf16", **LLAMA, prompts=16, group=4, **LENGTHS, precision="bf16"),
}
LEGEND = """\
seconds: median of a step. /floor, /TRL, /before: median over the rounds of the ratio within a round.
drawn, scored: positions computed for each that counts, while tokens are drawn, and in a pass.
peak: {memory}. The other columns are seconds by stage, medians."""


def parse() -> argparse.Namespace:
    """Returns the arguments of the command line."""
    parser = make_parser(__doc__)
    add_names(parser, "--workloads", WORKLOADS)
    add_names(parser, "--only", CONTENDERS)
    numbers: dict[str, tuple[int | None, str]] = {
        "repeats": (3, "rounds that count"),
        "warmup": (1, "rounds before them that do not"),
        "threads": (os.cpu_count(), "threads of torch"),
    }
    add_numbers(parser, numbers)
    parser.add_argument("--against", metavar="REV", help="commit at which lmrl runs too")
    parser.add_argument("--attention", default="sdpa", help="the models' attention (default: %(default)s)")
    parser.add_argument("--scoring_pass", default="auto", help="that of lmrl: auto, shared or plain")
    parser.add_argument("--small", action="store_true", help="a model of 1 layer and few short completions")
    parser.add_argument("--cpu", action="store_true", help="run on the CPU where there is a GPU")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw seconds against group size and lengths")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement of every round there")
    return parser.parse_args()


def race(
    load: Workload, names: list[str], arguments: argparse.Namespace, before: Path | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Returns the replies that count by contender; names with `@` are those of lmrl at the other commit."""
    environment = child_environment(arguments.threads, arguments.cpu)
    earlier = environment | {"PYTHONPATH": f"{before}{os.pathsep}{environment['PYTHONPATH']}"}
    if before is not None:
        names = [*names, *(f"{name}@before" for name in names if name in ("reinforce", "ppo"))]
    replies: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="lmrl-benchmark-") as folder, ExitStack() as stack:
        steps = arguments.warmup + arguments.repeats
        load = replace(load, folder=folder, threads=arguments.threads, steps=steps)
        with Contender("model", load, environment, CHILD) as maker:
            maker.receive()
        contenders = []
        for name in names:
            own = earlier if "@" in name else environment
            contenders.append(stack.enter_context(Contender(name, load, own, CHILD)))
            contenders[-1].receive()
        complete = 0
        try:
            while complete < steps:
                for contender in contenders:
                    time.sleep(PAUSE)
                    reply = contender.step()
                    place = f"{load.title}, round {complete + 1}"
                    print(f"{place}: {contender.name} {reply['seconds']:.2f} s", file=sys.stderr)
                    replies[contender.name].append(reply)
                complete += 1
        except SystemExit as error:  # from a contender, as when it is out of memory: complete rounds count
            if complete <= arguments.warmup:
                raise
            print(error, file=sys.stderr)
    return {name: rows[arguments.warmup : complete] for name, rows in replies.items()}


def summarise(replies: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Returns a row of the table for each contender."""
    seconds = {name: [reply["seconds"] for reply in rows] for name, rows in replies.items()}

    return {
        name: {
            "seconds": median(seconds[name]),
            "ratio_to_floor": paired_ratio(seconds, name, "floor"),
            "ratio_to_trl": paired_ratio(seconds, name, "trl"),
            "ratio_to_before": paired_ratio(seconds, name, f"{name}@before"),
            "positions": {kind: median(reply["positions"][kind] for reply in rows) for kind in ("drawn", "scored")},
            "peak_bytes": rows[-1]["peak"],
            "stages": {stage: median(reply["stages"][stage] for reply in rows) for stage in STAGES},
        }
        for name, rows in replies.items()
    }


def table(summary: dict[str, dict[str, Any]]) -> str:
    """Returns the aligned table of a workload."""
    rows = [["", "seconds", "/floor", "/TRL", "/before", "drawn", "scored", "peak", *STAGES]]
    for name, row in summary.items():
        ratios = [row["ratio_to_floor"], row["ratio_to_trl"], row["ratio_to_before"]]
        rows.append(
            [
                name,
                f"{row['seconds']:.3f}",
                *("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
                *(f"{row['positions'][kind]:.2f}" for kind in ("drawn", "scored")),
                f"{row['peak_bytes'] / 2**30:.2f}",
                *(f"{row['stages'][stage]:.3f}" for stage in STAGES),
            ]
        )
    return aligned(rows)


def draw(load: Workload, arguments: argparse.Namespace) -> None:
    """Draws the seconds of a step of lmrl and TRL against group size, lengths and batch, varying one at a time."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    axes = {
        "completions of a prompt": [replace(load, group=group) for group in (2, 4, 8)],
        "mean tokens of a prompt": [
            replace(load, prompt_low=length - 8, prompt_high=length + 8) for length in (16, 64, 256)
        ],
        "mean tokens of a completion": [
            replace(load, mean=float(length), deviation=length / 3, longest=2 * length) for length in (12, 24, 48)
        ],
        "prompts of a batch": [replace(load, prompts=prompts) for prompts in (8, 16, 32)],
    }
    shown = {
        "completions of a prompt": lambda one: one.group,
        "mean tokens of a prompt": lambda one: (one.prompt_low + one.prompt_high) / 2,
        "mean tokens of a completion": lambda one: one.mean,
        "prompts of a batch": lambda one: one.prompts,
    }
    figure, places = pyplot.subplots(1, len(axes), figsize=(13, 3.2), layout="constrained")
    for place, (title, loads) in zip(places, axes.items(), strict=True):
        found = [summarise(race(one, ["reinforce", "trl"], arguments)) for one in loads]
        for name, label in (("reinforce", "lmrl"), ("trl", "TRL")):
            values = [summary[name]["seconds"] for summary in found]
            place.plot([shown[title](one) for one in loads], values, marker="o", label=label)
        place.set_xlabel(title)
        place.set_ylim(bottom=0)
    places[0].set_ylabel("seconds of a step")
    places[0].legend()
    figure.savefig(arguments.picture)


def main() -> None:
    arguments = parse()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="lmrl-before-") as folder:
        before = None
        if arguments.against is not None:
            before = Path(folder)
            archive = subprocess.run(
                ["git", "-C", str(ROOT), "archive", arguments.against], check=True, capture_output=True
            )
            subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        for name in arguments.workloads:
            load = replace(WORKLOADS[name], attention=arguments.attention, scoring_pass=arguments.scoring_pass)
            if arguments.small:
                load = replace(load, **TINY)
            replies = race(load, arguments.only, arguments, before)
            summary = summarise(replies)
            results[name] = {"summary": summary, "rounds": replies}
            average = os.getloadavg()[0]
            shape = f"{load.prompts} prompts x {load.group}, {load.precision}, {arguments.threads} threads"
            print(f"{load.title}: {shape}; load of the machine {average:.1f}\n\n{table(summary)}\n")
    print(
        LEGEND.format(
            memory=MEMORY["cpu" if arguments.cpu or not torch.cuda.is_available() else "cuda"].partition(",")[0]
        )
    )
    write_results(arguments.json, arguments, results)
    if arguments.picture is not None:
        load = WORKLOADS[arguments.workloads[0]]
        draw(replace(load, **TINY) if arguments.small else load, arguments)


if __name__ == "__main__":
    main()
