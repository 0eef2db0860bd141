"""WORLD: two processes give the advantages, gradients and figures of one on the same completions."""

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from training import ALGORITHMS

from lmrl.rollouts import read_rollouts

HERE = Path(__file__).parent


def _launch(processes: int, worker: str, *argv: str) -> None:
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2"] if processes == 2 else []
    launcher += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"] if processes == 2 else []
    path = os.pathsep.join([str(HERE.parent), *sys.path])
    done = subprocess.run(
        [sys.executable, *launcher, str(HERE / worker), *argv],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def _run(processes: int, algorithm: str, model: str, out: Path, kind: str) -> dict[str, Any]:
    _launch(processes, "world_worker.py", algorithm, model, str(out), kind, str(processes))
    return torch.load(out, weights_only=False)


@pytest.mark.parametrize(
    ("algorithm", "kind"),
    [
        *itertools.product(ALGORITHMS, ["full", "lora"]),
        ("reinforce", "dense"),
        ("reinforce", "shrinkage"),
        ("ppo", "critic_adapter"),
        ("ppo", "least_squares"),
    ],
)
def test_two_processes_equal_one(algorithm: str, kind: str, gpt2_path: str, tmp_path: Path) -> None:
    one = _run(1, algorithm, gpt2_path, tmp_path / "one", kind)
    two = _run(2, algorithm, gpt2_path, tmp_path / "two", kind)
    assert torch.allclose(one["advantages"], two["advantages"], atol=1e-5)
    assert len(one["gradients"]) == len(two["gradients"]) == 2
    for step, gradients in enumerate(one["gradients"]):
        assert gradients.keys() == two["gradients"][step].keys()
        for name, gradient in gradients.items():
            assert torch.allclose(gradient, two["gradients"][step][name], atol=2e-5), (step, name)
    assert max(gradient.abs().max() for gradient in one["gradients"][0].values()) > 1e-3
    for log, other in zip(one["logs"], two["logs"], strict=True):
        assert log.keys() == other.keys()
        for name, value in log.items():
            assert float(other[name]) == pytest.approx(float(value), rel=1e-3, abs=1e-5), name
    by_token = algorithm == "reinforce" and kind == "lora"
    if by_token:
        shares = [one["logs"][0][name] for name in ("resampling/equal_groups", "dropped_groups")]
        assert shares == [0.75, 0.25]  # one of the first process, two of the second, of which one stays
        assert one["logs"][1]["updates_left_out"] == 1
    rollouts = read_rollouts(f"{tmp_path / 'one'}.run")
    assert len(rollouts) == (8 if algorithm == "ppo" or by_token else 16)
    for row, other in zip(rollouts, read_rollouts(f"{tmp_path / 'two'}.run"), strict=True):
        assert row.pop("rewards") == pytest.approx(other.pop("rewards"))
        for name, value in row.items():
            assert other[name] == (pytest.approx(value, abs=1e-5) if isinstance(value, float) else value), name


def test_replicas_that_sample_in_bfloat16_stay_equal_bit_by_bit(gpt2_path: str, tmp_path: Path) -> None:
    _launch(2, "replicas_worker.py", gpt2_path, str(tmp_path))
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert set(one) == {"reinforce full", "reinforce lora", "ppo full", "ppo lora"}
    for run, weights in one.items():
        assert weights and weights.keys() == other[run].keys()
        differing = [name for name, weight in weights.items() if not torch.equal(weight, other[run][name])]
        assert not differing, run
