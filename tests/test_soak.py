"""SOAK: a long run of small steps keeps its memory, its open files, its threads and its processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import mean

import pytest

HERE = Path(__file__).parent
BOUND = 8.0  # MiB by which the last quarter may be above the second, beside the log history


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "steps"), [("reinforce", 2000), ("ppo", 500)])
def test_a_long_run_holds_on_to_no_more_than_a_short_one(
    algorithm: str, steps: int, gpt2_path: str, tmp_path: Path
) -> None:
    path = os.pathsep.join([str(HERE), str(HERE.parent), *sys.path])
    done = subprocess.run(
        [sys.executable, str(HERE / "soak_worker.py"), algorithm, gpt2_path, str(tmp_path), str(steps)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert len(seen) == steps // 10
    quarter = len(seen) // 4
    second, last = seen[quarter : 2 * quarter], seen[-quarter:]
    grown = {name: mean(s[name] for s in last) - mean(s[name] for s in second) for name in seen[0]}
    assert grown["rss"] - grown["history"] < BOUND, grown
    for name in ("files", "threads", "children"):
        assert grown[name] == pytest.approx(0, abs=0.2), (name, [s[name] for s in seen])
