"""RESUME: some steps, kill -9, a fresh process and the other steps are the straight run, bit for bit."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import run
from resume_worker import differences, train


def straight_and_resumed(
    algorithm: str, lora: bool, processes: int, model: str, folder: Path, **options: Any
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Returns everything of both runs, for each process."""
    for mode in ("straight", "killed", "resumed"):
        ends = -signal.SIGKILL if mode == "killed" else 0
        given = (algorithm, lora, model, folder, processes, mode, options)
        run(train, *given, out=folder / mode, processes=processes, ends=ends)
        if mode == "killed":
            assert [path.name for path in (folder / "stopped").glob("checkpoint-*")] == ["checkpoint-2"]
    return [
        tuple(torch.load(folder / f"{mode}-{rank}.pt", weights_only=False) for mode in ("straight", "resumed"))
        for rank in range(processes)
    ]


RESAMPLED = {
    "baseline": "leave_one_out",
    "drop_equal_groups": True,
    "equal_groups_tolerance": 0.6,
    "resample_equal_groups": 2,
}


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("algorithm", ["reinforce", "ppo"])
def test_two_steps_a_kill_and_the_rest_are_the_straight_run(
    algorithm: str, lora: bool, processes: int, gpt2_path: str, tmp_path: Path
) -> None:
    resamples = algorithm == "reinforce" and lora
    options = RESAMPLED if resamples else {}
    for straight, resumed in straight_and_resumed(algorithm, lora, processes, gpt2_path, tmp_path, **options):
        assert differences(straight, resumed) == []
        assert straight["counts"][0] == (4 if algorithm == "reinforce" else 6)
        assert not resamples or any(row["resampling/attempts"] > 0 for row in straight["log"][2:4])  # once resumed
