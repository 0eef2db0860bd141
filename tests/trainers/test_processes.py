"""Two processes, and something goes wrong in the second: both end within a minute, with the reason."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
WORKER = str(HERE / "fault_worker.py")
TORCHRUN = [*("-m", "torch.distributed.run", "--nproc_per_node", "2"), "--rdzv_backend", "c10d"]
TORCHRUN += ["--rdzv_endpoint", "localhost:0"]


def environment(**more: str) -> dict[str, str]:
    """Returns that of a process which finds the tests and the package."""
    path = os.pathsep.join([str(HERE.parent), str(HERE.parents[1]), *sys.path])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}


def started(command: list[str], **more: str) -> subprocess.Popen[str]:
    """Returns a process that runs, in a group of its own."""
    pipe = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [sys.executable, *command], env=environment(**more), text=True, start_new_session=True, **pipe
    )


def ended(process: subprocess.Popen[str], seconds: float) -> str:
    """Returns what a process wrote, that ends in this time."""
    try:
        return process.communicate(timeout=seconds)[1]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def by_hand(*argv: str) -> list[subprocess.Popen[str]]:
    """Returns two processes with no launcher that would end one for the other."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    return [started([WORKER, *argv], RANK=rank, LOCAL_RANK=rank, **common) for rank in "01"]


def test_a_reward_that_fails_on_one_process_stops_both_and_what_is_kept_can_be_resumed(
    gpt2_path: str, tmp_path: Path
) -> None:
    process = started([*TORCHRUN, WORKER, "fail", gpt2_path, str(tmp_path)])
    printed = ended(process, seconds=300)
    assert process.returncode == 0, printed
    one, other = (json.loads((tmp_path / f"seen_{rank}.json").read_text()) for rank in (0, 1))
    assert one == other and len(one) == 7
    for name, (sentence, kept, state) in one.items():
        failed = "got nan for row 0" if name == "nan" else "raised KeyError: 'slot'. It was scoring 4 completions"
        assert sentence.startswith("The reward 'wrong") and failed in sentence, name
        folder = tmp_path / name.replace(" ", "_")
        assert sentence.endswith(
            f"This was process 1 of 2. The 2 steps done so far are kept in {folder}/checkpoint-2."
        )
        assert (kept, state["step"]) == (["checkpoint-2"], 4), name
        AutoModelForCausalLM.from_pretrained(folder / "checkpoint-2")
    # What was scored in the step that failed, and again after it, counts once.
    statistics = one["before a normalized one"][2]["rewards"]["share_of_letters_normalized"]["statistics"]
    assert statistics[0] == 4 * 8


def test_a_process_that_is_killed_ends_the_other_and_the_launcher_names_it(gpt2_path: str, tmp_path: Path) -> None:
    process = started([*TORCHRUN, WORKER, "kill", gpt2_path, str(tmp_path)])
    printed = ended(process, seconds=150)
    assert process.returncode != 0
    assert "Signal 9 (SIGKILL) received by PID" in printed and "rank      : 1 (local_rank: 1)" in printed


@pytest.mark.parametrize("what", ["kill", pytest.param("bug", marks=pytest.mark.slow)])
def test_without_a_launcher_the_process_that_is_left_ends_itself_with_the_reason(
    what: str, gpt2_path: str, tmp_path: Path
) -> None:
    first, second = by_hand(what, gpt2_path, str(tmp_path))
    traceback = ended(second, seconds=150)
    gone = time.monotonic()
    printed = ended(first, seconds=60)
    assert time.monotonic() - gone < 60
    assert (first.returncode, second.returncode) == (2, -signal.SIGKILL if what == "kill" else 1)
    assert "error: Another process of this run has ended or does not respond (" in printed
    assert "--resume_from_checkpoint" in printed and "Traceback" not in printed
    assert what == "kill" or "ZeroDivisionError: a bug of the second process" in traceback
