"""What Ctrl-C prints: what is lost, and the command that goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lmrl.cli.interruption import interruption_message
from lmrl.utils import COMMAND_VARIABLE

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "python recipes/ppo_gen.py --max_steps 60"


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """Returns the folder of a run that has logged 57 steps, the last line cut short."""
    lines = [json.dumps({"loss": 0.0, "step": step}) for step in range(1, 58)]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + '\n{"loss": 0.')
    return tmp_path


def message(monkeypatch: pytest.MonkeyPatch, folder: Path, given: str = "", **arguments: Any) -> str:
    """Returns the message for a command."""
    monkeypatch.setenv(COMMAND_VARIABLE, f"{COMMAND} {given}".strip())
    return interruption_message({"output_dir": str(folder), "resume_from_checkpoint": None, **arguments})


def save(folder: Path, step: int, age: float = 0.0) -> None:
    """Makes a checkpoint."""
    state = folder / f"checkpoint-{step}" / "trainer_state.json"
    state.parent.mkdir()
    state.write_text("{}")
    os.utime(state, (time.time() - age, time.time() - age))


def test_the_newest_checkpoint_is_named_with_the_steps_after_it(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(run_folder, 20, age=10)
    save(run_folder, 40)
    save(run_folder, 50, age=20)  # of an attempt before
    (run_folder / "checkpoint-60").mkdir()  # being written
    assert message(monkeypatch, run_folder) == (
        f"interrupted. {run_folder}/checkpoint-40 is kept, and the 17 steps after it are lost. To go on from there:\n"
        f"  {COMMAND} --resume_from_checkpoint latest"
    )


def test_a_log_that_ends_within_a_letter_is_read(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (run_folder / "log.jsonl").open("ab") as stream:
        stream.write("é".encode()[:1])
    assert "and the 57 steps are lost" in message(monkeypatch, run_folder)


def test_without_a_checkpoint_the_steps_are_lost(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert message(monkeypatch, run_folder) == (
        "interrupted. There is no checkpoint yet, and the 57 steps are lost (`--save_strategy steps --save_steps 10` "
        f"keeps checkpoints). To start again:\n  {COMMAND} --resume_from_checkpoint latest"
    )
    assert message(monkeypatch, run_folder / "new") == (
        f"interrupted. There is no checkpoint yet. To start again:\n  {COMMAND} --resume_from_checkpoint latest"
    )


@pytest.mark.parametrize(("steps", "often"), [(1, 1), (5, 2), (19, 9), (20, 10), (57, 10)])
def test_the_steps_between_checkpoints_would_have_kept_one(
    steps: int, often: int, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run_folder / "log.jsonl").write_text(json.dumps({"loss": 0.0, "step": steps}) + "\n")
    remedy = f"lost (`--save_strategy steps --save_steps {often}` keeps checkpoints)"
    assert remedy in message(monkeypatch, run_folder, save_strategy="steps", save_steps=60)


@pytest.mark.parametrize(
    ("given", "arguments", "added"),
    [
        ("--overwrite --beta 0.1", {"overwrite": True}, "--beta 0.1 --resume_from_checkpoint latest"),
        ("--overwrite true --beta 0.1", {"overwrite": True}, "--beta 0.1 --resume_from_checkpoint latest"),
        ("--config a.yaml", {"overwrite": True}, "--config a.yaml --resume_from_checkpoint latest --overwrite false"),
        ("--resume_from_checkpoint=true", {"resume_from_checkpoint": "true"}, "--resume_from_checkpoint latest"),
        ("--prompt_template '{a} ->'", {}, "--prompt_template '{a} ->' --resume_from_checkpoint latest"),
    ],
)
def test_the_command_goes_on_and_does_not_overwrite(
    given: str, arguments: dict[str, Any], added: str, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(run_folder, 40)
    monkeypatch.setattr(sys, "argv", ["recipes/ppo_gen.py", *given.split()])
    assert message(monkeypatch, run_folder, given, **arguments).splitlines()[1] == f"  {COMMAND} {added}"


def test_a_run_from_the_checkpoint_of_another_starts_there_again(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other" / "checkpoint-2"
    other.mkdir(parents=True)
    given = f"--resume_from_checkpoint {other}"
    printed = message(monkeypatch, run_folder, given, resume_from_checkpoint=str(other))
    assert printed.splitlines()[1] == f"  {COMMAND} {given} --overwrite"


@pytest.mark.parametrize("flag", ["--hub_token hf_abc", "--hub_token=hf_abc"])
def test_the_command_has_no_token(flag: str, run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = message(monkeypatch, run_folder, f"{flag} --push_to_hub")
    shown = flag.replace("hf_abc", "hidden")
    assert printed.splitlines()[1] == f"  {COMMAND} {shown} --push_to_hub --resume_from_checkpoint latest"
    monkeypatch.setenv(COMMAND_VARIABLE, f"python recipes/evaluate_gen.py {flag}")
    assert "hf_abc" not in interruption_message({"eval_rows": 3})


def test_a_trained_model_is_named(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run_folder / "model.safetensors").write_text("weights")
    trained = f"interrupted after the training. The model is in {run_folder}, not evaluated: see "
    trained += "recipes/evaluate_gen.py"
    assert message(monkeypatch, run_folder) == trained
    save(run_folder, 40)
    assert message(monkeypatch, run_folder) == trained  # no steps are lost
    log = run_folder / "log.jsonl"
    os.utime(log, (time.time() + 1, time.time() + 1))  # the model is of the training before
    assert message(monkeypatch, run_folder).startswith(f"interrupted. {run_folder}/checkpoint-40 is kept, and the 17")


def test_an_evaluation_goes_on_with_the_same_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMMAND_VARIABLE, "python recipes/evaluate_gen.py")
    assert interruption_message({"eval_rows": 3}) == (
        "interrupted. The same command goes on with what is not done yet:\n  python recipes/evaluate_gen.py"
    )
    assert interruption_message({}) == "interrupted"


def test_ctrl_c_ends_a_run_of_the_command_lmrl_with_its_own_command(tmp_path: Path) -> None:
    short = ("--per_device_train_batch_size", "8", "--max_completion_length", "8", "--eval_rows", "2")
    words = ["run", "reinforce_gen", "--max_steps", "5000", *short, "--output_dir", "out", "--disable_tqdm", "true"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    options: Any = {"cwd": tmp_path, "env": environment, "start_new_session": True, "text": True}
    process = subprocess.Popen(
        [sys.executable, "-m", "lmrl", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **options
    )
    log = tmp_path / "out" / "log.jsonl"
    while process.poll() is None and not (log.is_file() and log.stat().st_size):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err, err
    assert err.splitlines()[-1] == f"  lmrl {' '.join(words)} --resume_from_checkpoint latest"
