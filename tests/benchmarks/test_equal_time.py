"""Quality after equal time: TRL's RLOO trains on lmrl's rows and rewards, and runs that are there are compared."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from launching import BENCHMARKS, run_benchmark

from lmrl.evaluation import Completion, Evaluation, read_json, write_json
from lmrl.evaluation.rows import row_ids
from lmrl.evaluation.scores import mean_score

ROWS = 4
# Scores of the rows by contender and seed: REINFORCE is 1 above TRL in each.
SCORES = {
    "trl": [[1.0, 2.0, 3.0, 4.0], [1.5, 2.5, 2.5, 3.5], [2.0, 2.0, 3.0, 4.0]],
    "reinforce": [[2.0, 3.0, 4.0, 5.0], [2.5, 3.5, 3.5, 4.5], [3.0, 3.0, 4.0, 5.0]],
}


def test_runs_that_are_there_are_compared_over_seeds_and_rows(tmp_path: Path) -> None:
    for name, seeds in SCORES.items():
        for seed, values in enumerate(seeds):
            folder = tmp_path / name / f"seed-{seed}"
            folder.mkdir(parents=True)
            completions = [Completion(row, 0, "a", 1, True) for row in range(ROWS)]
            ids = row_ids([{"prompt": str(row)} for row in range(ROWS)])
            score = mean_score("bleu", "points", values, True)
            write_json(folder / "after.json", Evaluation(completions, {"bleu": score}, {}, ids))
            average = sum(values) / ROWS
            mark = {"seconds": 60.0, "step": 10, "completions": 640, "peak": 2**30}
            marks = [mark | {"scores": {"bleu": average, "length": 7.0}}]
            (folder / "marks.json").write_text(json.dumps(marks), encoding="utf-8")
    out = run_benchmark("equal_time.py", "--only", "reinforce,trl", "--out", tmp_path)
    lines = [line.split() for line in out.splitlines()]
    shown = [" ".join(line) for line in lines]
    assert "TRL RLOO 1.00 10 640 2.58 2.50, 2.50, 2.75 7.0 1.00" in shown
    assert "lmrl REINFORCE 1.00 10 640 3.58 3.50, 3.50, 3.75 7.0 1.00" in shown
    (difference,) = [line for line in lines if line[:5] == ["lmrl", "REINFORCE", "TRL", "RLOO", "bleu"]]
    assert difference[5] == "+1"
    low, high = (float(text.strip("[],")) for text in difference[6:8])
    assert low < 1 < high and low + high == pytest.approx(2, abs=1e-3)
    assert (tmp_path / "equal_time.svg").is_file()
    with pytest.raises(AssertionError, match="error: --metric must be one of bleu, got 'blue'"):
        run_benchmark("equal_time.py", "--only", "reinforce,trl", "--out", tmp_path, "--metric", "blue")


def run_contender(name: str, folder: Path, marks: str, *options: str) -> list[dict[str, Any]]:
    """Returns the marks of a contender on the demo, which must end well."""
    command = [sys.executable, str(BENCHMARKS / "_equal_time.py"), name, str(folder), marks]
    command += ["--config", "recipes/configs/demo_reinforce.yaml", "--per_device_train_batch_size", "8"]
    command += ["--eval_rows", "4", "--max_completion_length", "6", *options]
    root = BENCHMARKS.parent
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(json.loads((folder / "marks.json").read_text(encoding="utf-8")))


@pytest.mark.parametrize(("name", "lora_r"), [("reinforce", None), ("trl", None), ("reinforce", 2), ("trl", 2)])
def test_a_contender_trains_until_its_marks_and_is_evaluated_there(
    name: str, lora_r: int | None, tmp_path: Path
) -> None:
    options = ["--bf16", "false"]
    if lora_r:
        options += ["--use_peft", "true", "--lora_r", str(lora_r), "--lora_target_modules", "c_attn"]
    start, *_, last = run_contender(name, tmp_path, "[0.01, 2.0]", *options)
    assert (start["step"], start["seconds"]) == (0, 0)
    # All of the demo's model, or an adapter of each of its two layers: of 128 numbers to 384.
    assert start["weights"] == (495_104 if lora_r is None else 2 * lora_r * (128 + 384))
    assert last["seconds"] >= 2.0 and last["completions"] == 8 * last["step"] > 0
    assert read_json(tmp_path / "before.json").values["bleu"] == start["scores"]["bleu"]
    assert read_json(tmp_path / "after.json").values["bleu"] == last["scores"]["bleu"]


@pytest.mark.parametrize("name", ["reinforce", "trl"])
def test_at_a_learning_rate_of_0_no_score_moves_in_bfloat16(name: str, tmp_path: Path) -> None:
    start, *_, last = run_contender(name, tmp_path, "[0.5]", "--bf16", "true", "--learning_rate", "0")
    assert last["step"] > 0 and last["scores"] == start["scores"]
