"""Runs of the cases and of a recipe, in processes that have GPUs, pretended or real."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from launching import RECIPES, finish, start

HERE = Path(__file__).parent
PRETENDED = {"script": HERE / "pretended.py"}
# tests/conftest.py hides GPUs from all other tests.
HIDDEN = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
REAL = {"prefix": ("env", "-u", "CUDA_VISIBLE_DEVICES") if HIDDEN else (), "DS_ACCELERATOR": "cuda"}

FEW = "--max_completion_length 12 --per_device_train_batch_size 4 --eval_rows 6 --report_to none"
ENDS_ITSELF = "--ddp_timeout 60"  # where processes wait for each other for ever


def count_real_gpus() -> int:
    """Returns the number of GPUs, without a driver's state in this process."""
    command = [*REAL["prefix"], sys.executable, "-c", "import torch; print(torch.cuda.device_count())"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def check_cases(groups: str, folder: Path, *options: str, **child: Any) -> None:
    """Runs the cases of some groups in one process, and fails with the error of each that does not pass."""
    results = folder / "results.json"
    finish(start(None, HERE / "cases.py", *options, str(results), *groups.split(), **child))
    errors = json.loads(results.read_text(encoding="utf-8"))
    failed = [f"{name}\n{error}" for name, error in errors.items() if error is not None]
    assert errors and not failed, "\n".join(failed)


def check_recipe(
    engine: str | None,
    folder: Path,
    *argv: str,
    critic: str = "shared",
    steps: int = 2,
    script: Path | None = None,
    **child: Any,
) -> None:
    """Runs recipes/ppo_gen.py from the first evaluation to the report, by `script` if given."""
    first, *rest = [*([script] if script else []), RECIPES / "ppo_gen.py"]
    own = ("--critic", critic, "--max_steps", str(steps), "--output_dir", str(folder), *argv)
    argv = (*map(str, rest), *FEW.split(), *ENDS_ITSELF.split(), *own)
    finish(start(engine, first, *argv, **child))
    assert (folder / "report.html").is_file()
    assert (folder / "critic" / "critic.safetensors").is_file() == (critic != "least_squares")  # which has no weights
