"""The policy with its critic under torch's `fully_shard` (FSDP2), on two CPU processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize("folder", ["gpt2_path", "llama_path"])  # one with tied weights, one without
def test_shards_give_the_results_of_the_unsharded_model(folder: str, request: pytest.FixtureRequest) -> None:
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2"]
    launcher += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]
    done = subprocess.run(
        [sys.executable, *launcher, str(HERE / "sharded_worker.py"), request.getfixturevalue(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
