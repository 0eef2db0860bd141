"""One run on two nodes: two network namespaces connected by a virtual cable."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from launching import RECIPES, finish, kill, start
from safetensors.torch import load_file

from lmrl.critics import CRITIC_FILE

FEW = (
    *("--max_steps", "2", "--per_device_train_batch_size", "4", "--max_completion_length", "12"),
    *("--eval_rows", "5", "--eval_batch_size", "2", "--report_to", "none", "--critic", "shared"),
)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)


@pytest.fixture
def nodes() -> Iterator[list[tuple[str, str, str]]]:
    """Yields name, network interface and address of two namespaces; skips where they cannot be made."""
    tag = f"{os.getpid() % 100_000}"
    made = [(f"lmrl{tag}{end}", f"lm{tag}{end}", f"10.213.77.{number}") for number, end in enumerate("ab", start=1)]
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the command `ip`")
    with ExitStack() as stack:
        try:
            for name, *_ in made:
                ip("netns", "add", name)
                stack.callback(ip, "netns", "delete", name)  # and its end of the cable with it
            ip("link", "add", made[0][1], "type", "veth", "peer", "name", made[1][1])
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces cannot be made here: {error.stderr.decode().strip()}")
        for name, interface, address in made:
            ip("link", "set", interface, "netns", name)
            ip("-n", name, "address", "add", f"{address}/24", "dev", interface)
            ip("-n", name, "link", "set", interface, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "zero3"])
def test_two_nodes_give_what_two_processes_of_one_give(
    engine: str, nodes: list[tuple[str, str, str]], tmp_path: Path
) -> None:
    if engine != "ddp":
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed: pip install deepspeed")
    recipe = RECIPES / "ppo_gen.py"
    finish(start(engine, recipe, *FEW, "--output_dir", str(tmp_path / "one")))
    children = []
    for rank, (name, interface, _) in enumerate(nodes):
        where = ("--num_machines", "2", "--num_processes", "2", "--machine_rank", str(rank))
        first = ("--main_process_ip", nodes[0][2], "--main_process_port", "29500")
        children.append(
            start(
                *(engine, recipe, *FEW, "--output_dir", str(tmp_path / f"two{rank}")),
                options=(*where, *first),
                prefix=("ip", "netns", "exec", name),
                GLOO_SOCKET_IFNAME=interface,
            )
        )
    try:
        outs = [finish(child) for child in children]
    finally:
        for child in children:
            kill(child)
    assert [out.count("after - before") for out in outs] == [1, 0]  # the first machine speaks, and writes
    assert not (tmp_path / "two1" / "report.html").exists()
    one, two = tmp_path / "one", tmp_path / "two0"
    for name in ("model.safetensors", CRITIC_FILE):
        expected, found = load_file(one / name), load_file(two / name)
        assert expected.keys() == found.keys()
        assert all(torch.allclose(found[key], value, atol=1e-6) for key, value in expected.items()), name
    for name in ("before.json", "after.json"):
        assert (
            json.loads((one / name).read_text())["completions"] == json.loads((two / name).read_text())["completions"]
        )
