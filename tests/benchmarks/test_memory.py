"""The benchmark of memory runs on a tiny model, and its variants train on the same rewards."""

import json
import os
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_variants_train_alike_and_shared_models_take_less(tmp_path):
    sizes = ("--layers", "1", "--width", "64", "--vocabulary", "200", "--new-tokens", "4", "--prompt-length", "4")
    done = subprocess.run(
        [
            *(sys.executable, BENCHMARKS / "memory.py", "--cpu", *sizes),
            *("--only", "full,reward_adapter", "--json", tmp_path / "memory.json"),
        ],
        env=os.environ | {"PYTHONPATH": str(BENCHMARKS.parent)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "memory.json").read_text())["results"]
    assert list(results) == ["full", "reward_adapter"]
    full, shared = results["full"], results["reward_adapter"]
    assert full["training"] > 0 and full["with_loading"] >= full["training"]
    assert abs(full["reward"] - shared["reward"]) < 1e-4 and full["kl"] == shared["kl"] == 0
    assert shared["trained"] < full["trained"] / 2
    assert "all four models, all weights trained" in done.stdout and " 1.00 " in done.stdout
