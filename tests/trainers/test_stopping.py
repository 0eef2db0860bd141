"""SIGTERM ends a run after the step it is in, with a checkpoint; SIGKILL at any moment loses nothing."""

import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import run, started
from resume_worker import differences, recipe, train, train_until_second_sigterm, train_until_sigterm
from training import make_trainer
from transformers import TrainerCallback

from lmrl.checkpoints import find_corruption, newest_first
from lmrl.sigterm import Terminated

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_gets_sigterm_saves_its_step_and_goes_on_as_if_it_had_not(
    processes: int, gpt2_path: str, tmp_path: Path
) -> None:
    given = (gpt2_path, tmp_path, processes)
    printed = run(train_until_sigterm, *given, out=tmp_path / "sigterm", processes=processes, ends=143)
    checkpoint = tmp_path / "stopped" / "checkpoint-2"
    assert f"Stopped by SIGTERM after step 2, which is saved in {checkpoint}. Go on from there with" in printed
    assert "handler afterwards: SIG_DFL" in printed
    assert find_corruption(checkpoint) is None
    for mode in ("straight", "resumed"):
        run(
            train,
            "reinforce",
            False,
            gpt2_path,
            tmp_path,
            processes,
            mode,
            {},
            out=tmp_path / mode,
            processes=processes,
        )
    for rank in range(processes):
        straight, resumed = (
            torch.load(tmp_path / f"{m}-{rank}.pt", weights_only=False) for m in ("straight", "resumed")
        )
        assert differences(straight, resumed) == []


def test_a_second_sigterm_ends_a_run_at_once(gpt2_path: str, tmp_path: Path) -> None:
    run(train_until_second_sigterm, gpt2_path, tmp_path / "run", out=tmp_path, ends=-signal.SIGTERM)
    assert newest_first(tmp_path / "run") == []


@pytest.mark.slow
def test_a_recipe_that_gets_sigterm_saves_and_exits_with_143(gpt2_path: str, tmp_path: Path) -> None:
    argv = ["--output_dir", str(tmp_path / "run"), "--max_steps", "2000", "--per_device_train_batch_size", "8"]
    argv += [
        "--max_completion_length",
        "8",
        "--save_strategy",
        "steps",
        "--save_steps",
        "1",
        "--save_total_limit",
        "2",
    ]
    argv += ["--report_to", "none", "--use_cpu", "yes", "--resume_from_checkpoint", "latest"]
    log, folder = tmp_path / "0.txt", tmp_path / "run"
    with started(recipe, RECIPES / "reinforce_gen.py", argv, out=tmp_path) as (process,):
        waited = time.monotonic()
        while not newest_first(folder) and process.is_alive() and time.monotonic() - waited < 120:
            time.sleep(0.01)
        assert process.is_alive(), log.read_text()[-3000:]
        os.kill(process.pid, signal.SIGTERM)
        process.join(timeout=60)
        assert process.exitcode == 143, log.read_text()[-3000:]
    printed, newest = log.read_text(), newest_first(folder)[0]
    assert f"{folder} has no complete checkpoint yet: training starts from the beginning." in printed
    assert f"Stopped by SIGTERM after step {newest.name.split('-')[1]}, which is saved in {newest}." in printed
    assert "Traceback" not in printed
    assert find_corruption(newest) is None
    assert not (folder / "after.json").exists()


def test_training_leaves_the_handler_that_was_there_and_works_in_a_thread(gpt2_path: str, tmp_path: Path) -> None:
    handler = lambda *_: None  # noqa: E731
    before = signal.signal(signal.SIGTERM, handler)
    try:
        trainer = make_trainer("reinforce", gpt2_path, tmp_path, max_steps=1)
        callbacks = list(trainer.callback_handler.callbacks)
        trainer.train()
        assert signal.getsignal(signal.SIGTERM) is handler
        assert trainer.callback_handler.callbacks == callbacks
        other = make_trainer("reinforce", gpt2_path, tmp_path, max_steps=1)
        thread = threading.Thread(target=other.train)
        thread.start()
        thread.join()
        assert other.state.global_step == 1
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm, lora, processes, steps", [("ppo", False, 1, 30), ("reinforce", True, 2, 14)])
def test_killed_at_random_moments_a_run_loses_nothing(
    algorithm: str, lora: bool, processes: int, steps: int, gpt2_path: str, tmp_path: Path
) -> None:
    options = {"max_steps": steps, "save_steps": 1, "save_total_limit": 2}
    given = (algorithm, lora, gpt2_path, tmp_path, processes)
    run(train, *given, "straight", options, out=tmp_path / "straight", processes=processes)
    chance, folder, kills, reached = random.Random(processes), tmp_path / "stopped", 0, 0
    while True:
        with started(train, *given, "resumed", options, out=tmp_path / "resumed", processes=processes) as ranks:
            while _steps(folder) == reached and all(rank.is_alive() for rank in ranks):
                time.sleep(0.001)
            time.sleep(chance.expovariate(1 / 0.3))
            if not any(rank.is_alive() for rank in ranks):
                break
            for rank in chance.sample(ranks, len(ranks)):
                rank.kill()
            kills += 1
        complete = [checkpoint for checkpoint in newest_first(folder) if find_corruption(checkpoint) is None]
        assert complete and _steps(folder) >= reached
        reached = _steps(folder)
    assert [rank.exitcode for rank in ranks] == [0] * processes, (tmp_path / "resumed" / "0.txt").read_text()[-3000:]
    assert kills >= 4
    for rank in range(processes):
        straight, resumed = (
            torch.load(tmp_path / f"{m}-{rank}.pt", weights_only=False) for m in ("straight", "resumed")
        )
        assert differences(straight, resumed) == []


def _steps(folder: Path) -> int:
    return max((int(checkpoint.name.split("-")[1]) for checkpoint in newest_first(folder)), default=0)


def test_sigterm_saves_a_step_that_is_not_the_best(gpt2_path: str, tmp_path: Path) -> None:
    """With `save_strategy="best"` every evaluation decides whether to save, and would withdraw the request."""

    def held_out(policy: torch.nn.Module) -> dict[str, float]:
        return {"bleu": -float(trainer.state.global_step)}

    class Signal(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    trainer = make_trainer(
        "reinforce",
        gpt2_path,
        tmp_path,
        eval_dataset=[{"prompt": "a b"}],
        held_out_metrics=held_out,
        callbacks=[Signal()],
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="best",
        metric_for_best_model="bleu",
        max_steps=4,
    )
    with pytest.raises(Terminated):
        trainer.train()
    assert trainer.state.global_step == 2
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
