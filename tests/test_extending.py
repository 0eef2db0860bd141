"""The trainer of docs/extending.md trains, resumes, reports, has its card and is swept, without a change in lmrl."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    *("--per_device_train_batch_size", "16", "--max_completion_length", "24", "--eval_rows", "8"),
    *("--learning_rate", "1e-3", "--save_strategy", "steps", "--save_steps", "1"),
]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a copy of a recipe, changed as the page describes, beside the two classes of the page."""
    folder = tmp_path_factory.mktemp("extending")
    page = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    (block,) = re.findall(
        r"^```python\n((?:(?!```).)*class OptimalTokenTrainer.*?)^```", page, re.DOTALL | re.MULTILINE
    )
    classes, _ = block.split("\n\nconfig = ")
    (folder / "my_trainer.py").write_text(classes)
    source = (ROOT / "recipes/ppo_gen.py").read_text(encoding="utf-8")
    source = source.replace("from lmrl.trainers import", "from my_trainer import")
    source = source.replace("PPOConfig", "OptimalTokenConfig").replace("PPOTrainer", "OptimalTokenTrainer")
    (folder / "my_recipe.py").write_text(source)
    (folder / "configs").mkdir()
    demo = (ROOT / "recipes/configs/demo_ppo.yaml").read_text(encoding="utf-8")
    (folder / "configs/demo_ppo.yaml").write_text(demo.replace("lam: 0.98\n", ""))  # which is PPO's
    return folder / "my_recipe.py"


def run(*command: object) -> str:
    """Runs a script offline and returns its output."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, *map(str, command)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def log_of(folder: Path) -> list[dict[str, float]]:
    """Returns what a run logged of its steps."""
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [entry for entry in entries if "grad_norm" in entry]


def test_it_trains_resumes_and_reports(recipe: Path) -> None:
    folder = recipe.parent / "run"
    output = run(recipe, *SMALL, "--output_dir", folder, "--max_steps", "2")
    assert "bleu" in output and (folder / "report.html").is_file()
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "REINFORCE with an optimal token baseline" in card and "@article{li2026otb" in card
    first = log_of(folder)
    run(recipe, *SMALL, "--output_dir", folder, "--max_steps", "3", "--resume_from_checkpoint", "latest")
    both = log_of(folder)
    assert [entry["step"] for entry in both] == [1, 2, 3]
    assert [entry["grad_norm"] for entry in both[:2]] == [entry["grad_norm"] for entry in first]


def test_it_is_swept(recipe: Path) -> None:
    pytest.importorskip("optuna")
    folder = recipe.parent / "sweep"
    space = json.dumps({"beta": [0.01, 0.1]})
    command = ["--recipe", recipe, "--space", space, "--objective", "bleu", "--trials", 1, "--output_dir", folder]
    output = run(ROOT / "recipes/sweep.py", *command, "--", *SMALL, "--max_steps", "1")
    scores = json.loads((folder / "trial-0000/after.json").read_text(encoding="utf-8"))["scores"]
    assert scores["bleu"]["value"] > 0
    assert "optimal token" in (folder / "trial-0000/README.md").read_text(encoding="utf-8")
    assert "bleu" in output
