"""Learning runs of minutes: the recipes reach the scores that the docs promise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lmrl.evaluation import Evaluation, compare, read_json

ROOT = Path(__file__).resolve().parents[1]


def _run(recipe: str, folder: Path, *flags: str) -> tuple[Evaluation, Evaluation]:
    """Runs a recipe as a user would, and returns what it measured before and after."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "recipes" / recipe), "--output_dir", str(folder), *flags],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return read_json(folder / "before.json"), read_json(folder / "after.json")


@pytest.mark.slow(minutes=2)
@pytest.mark.parametrize("seed", ["1", "2", "3"])
@pytest.mark.parametrize("recipe", ["ppo_gen.py", "reinforce_gen.py"])
def test_the_demo_gets_better_on_held_out_rows(recipe: str, seed: str, tmp_path: Path) -> None:
    before, after = _run(recipe, tmp_path, "--seed", seed)
    for metric in ("bleu", "rougeL", "chrf"):  # chrF was not rewarded
        comparison = compare(before.scores[metric], after.scores[metric])
        assert comparison.low > 2, (metric, comparison)


@pytest.mark.slow(minutes=15)
@pytest.mark.parametrize("algorithm", ["ppo", "reinforce"])
def test_e2e_gets_better(algorithm: str, data_dir: Path, tmp_path: Path) -> None:
    before, after = _run(
        f"{algorithm}_gen.py",
        tmp_path,
        *("--config", str(ROOT / "recipes" / "configs" / f"e2e_{algorithm}.yaml")),
        *("--model_name_or_path", str(data_dir / "models" / "e2e-gpt2-3.7m-sft")),
        *("--dataset_name", str(data_dir / "data" / "e2e" / "train.jsonl")),
        *("--eval_dataset_name", str(data_dir / "data" / "e2e" / "dev.jsonl")),
    )
    assert before.scores["bleu_e2e"].value == pytest.approx(71.80, abs=0.02)
    assert after.scores["bleu_e2e"].value > 72.5
