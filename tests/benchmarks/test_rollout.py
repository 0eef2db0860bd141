"""The benchmark of a rollout runs on a tiny model, whose completions have the lengths of the workload."""

import json
import os
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_lmrl_computes_few_positions_more_than_count(tmp_path):
    options = ("--small", "--cpu", "--repeats", "1", "--threads", "1", "--workloads", "e2e", "--only", "reinforce")
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "rollout.py", *options, "--json", tmp_path / "rollout.json"],
        env=os.environ | {"PYTHONPATH": str(BENCHMARKS.parent)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    row = json.loads((tmp_path / "rollout.json").read_text())["results"]["e2e"]["summary"]["reinforce"]
    assert 0.5 < row["positions"]["scored"] < 1.3 and row["seconds"] > row["stages"]["generation"] > 0
    assert "reinforce" in done.stdout and "positions computed for each that counts" in done.stdout
