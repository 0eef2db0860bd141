"""A study: parallel, pruned, bounded, killed, gone on with. Its trials run child.py, which trains nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from lmrl.search import Dimension, Objective, Sweep, draw, summary

CHILD = Path(__file__).with_name("child.py")
ROOT = CHILD.parents[2]


def make_sweep(
    folder: Path, x: Dimension | None = None, *rest: str, max_kl: float | None = None, **options: Any
) -> Sweep:
    space = {"x": x or Dimension("x", low=1.0, high=9.0)}
    return Sweep(folder, [str(CHILD), *rest], space, Objective("bleu", max_kl=max_kl), **options)


def enqueue(sweep: Sweep, *values: float) -> None:
    """Says what the next trials are."""
    sweep.open()
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(sweep.folder / "study.journal"))
    )
    for x in values:
        optuna.load_study(study_name="sweep", storage=storage).enqueue_trial({"x": x})


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def drawn(sweep: Sweep) -> list[float]:
    return [trial.params["x"] for trial in sweep.trials()]


def test_the_best_is_the_best_that_keeps_the_bound_on_the_kl(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, max_kl=3.0)
    enqueue(sweep, 2.0, 8.0, 3.0, 1.0)
    sweep.run(4, workers=4)
    assert sorted(trial.value for trial in sweep.trials()) == [10.0, 20.0, 30.0, 80.0]
    assert sweep.best().params == {"x": 3.0} and sweep.best().user_attrs["kl"] == 3.0
    lines = summary(sweep).splitlines()
    assert [line.split()[1:4] for line in lines[2:6]] == [
        ["30", "3", "3"],
        ["20", "2", "2"],
        ["10", "1", "1"],
        ["80", "8", "8"],
    ]
    assert lines[2].endswith("best") and lines[5].endswith("over max_kl")
    number = sweep.best().number
    assert lines[-1] == f"The best again: python {CHILD} --x 3.0 --output_dir {tmp_path}/trial-{number:04}"
    assert (tmp_path / f"trial-{number:04}" / "command.txt").read_text() in lines[-1] + "\n"
    picture = draw(sweep)
    assert picture.count('class="dot') == 3 * 4 and picture.count(">best</text>") == 3


def test_a_minimum_is_sought_where_less_is_better(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, [str(CHILD)], {"x": Dimension("x", (1.0, 2.0))}, Objective("bleu", "minimize"))
    enqueue(sweep, 2.0, 1.0)
    sweep.run(2, workers=2)
    assert sweep.best().value == 10.0 and summary(sweep).splitlines()[2].split()[1] == "10"


def test_a_pruned_trial_is_killed_and_its_folder_says_so(tmp_path: Path) -> None:
    hang = tmp_path / "hang"
    hang.touch()
    never = optuna.pruners.ThresholdPruner(lower=1e9)
    sweep = make_sweep(tmp_path / "sweep", None, "--hang", str(hang), pruner=never)
    sweep.run(2, workers=2)
    assert [trial.state.name for trial in sweep.trials()] == ["PRUNED", "PRUNED"]
    for trial in sweep.trials():
        folder = sweep.folder_of(trial.number)
        told = json.loads((folder / "trial.json").read_text())
        assert (told["state"], told["reason"]) == ("PRUNED", "worse than others at step 1")
        assert not is_running(int((folder / "pid").read_text())) and not (folder / "after.json").exists()
    assert sweep.best() is None and "pruned, worse than others at step 1" in summary(sweep)
    assert draw(sweep).count("hollow s5") == 2 * 2  # by trial and by x; none has a KL


@pytest.mark.parametrize(("max_kl", "state"), [(3.0, "COMPLETE"), (None, "PRUNED")])
def test_no_trial_is_held_to_what_was_reached_over_the_bound(max_kl: float | None, state: str, tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, max_kl=max_kl, startup_trials=1)
    enqueue(sweep, 5.0, 1.0)
    sweep.run(2)
    assert [trial.state.name for trial in sweep.trials()] == ["COMPLETE", state]


def test_what_would_train_the_same_model_is_run_once(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, Dimension("x", (2.0, 4.0)), max_kl=3.0)
    enqueue(sweep, 4.0, 2.0, 2.0, 4.0)
    sweep.run(4)
    assert [trial.value for trial in sweep.trials()] == [40.0, 20.0, 20.0, 40.0]
    assert [trial.constraints["kl"] for trial in sweep.trials()] == [1.0, -1.0, -1.0, 1.0]
    assert [path.parent.name for path in sorted(tmp_path.glob("*/after.json"))] == ["trial-0000", "trial-0001"]
    assert sweep.best().number == 1 and summary(sweep).splitlines()[3].endswith("as trial 1")


def test_trials_that_fail_say_why_and_the_sweep_goes_on(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, Dimension("x", (13.0, 1.0)))
    enqueue(sweep, 13.0, 1.0)
    sweep.run(2)
    assert [trial.state.name for trial in sweep.trials()] == ["FAIL", "COMPLETE"]
    assert summary(sweep).splitlines()[3].endswith("failed: x is 13, but must be luckier")


def test_where_all_trials_fail_their_sentence_is_the_error(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, Dimension("x", (13.0,)))
    with pytest.raises(ValueError, match=r"all 2 trials failed, trial 1 with: x is 13, but must be luckier"):
        sweep.run(2)


def test_a_score_that_is_not_measured_stops_the_sweep_at_once(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, [str(CHILD)], {"x": Dimension("x", (1.0, 2.0))}, Objective("chrf"))
    with pytest.raises(ValueError, match="objective 'chrf' was not measured, only bleu, kl"):
        sweep.run(5)
    assert len(list(tmp_path.glob("trial-*"))) == 1


def test_a_study_that_was_stopped_draws_what_it_would_have_drawn(tmp_path: Path) -> None:
    whole, parts = (make_sweep(tmp_path / name, startup_trials=2, prune=False) for name in ("whole", "parts"))
    whole.run(5)
    parts.run(3)
    make_sweep(tmp_path / "parts", startup_trials=2, prune=False).run(5)
    assert drawn(whole) == drawn(parts) and len(set(drawn(whole))) == 5
    parts.run(5)  # nothing is left to do
    assert len(parts.trials()) == 5


def test_a_line_that_a_crash_has_cut_short_does_not_spoil_the_study(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path)
    sweep.run(1)
    with (tmp_path / "study.journal").open("a") as stream:
        stream.write('{"op_code":4,"worker')
    sweep.run(2)
    assert [trial.state.name for trial in sweep.trials()] == ["COMPLETE"] * 2


def test_a_folder_holds_one_study(tmp_path: Path) -> None:
    make_sweep(tmp_path).open()
    with pytest.raises(ValueError, match=r"holds a study with objective .* name another output_dir"):
        make_sweep(tmp_path, max_kl=3.0).open()
    (tmp_path / "study.journal").unlink()
    (tmp_path / "trial-0000").mkdir()
    with pytest.raises(ValueError, match=r"has trials but no study\.journal"):
        make_sweep(tmp_path).open()


def start(sweep: Sweep, trials: int, workers: int) -> "subprocess.Popen[bytes]":
    """Returns a process of its own that runs a sweep like this one."""
    code = (
        "import signal, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from test_study import make_sweep\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell runs in the background ignores it\n"
        f"make_sweep(Path(sys.argv[2]), None, *sys.argv[3:]).run({trials}, {workers})"
    )
    command = [sys.executable, "-c", code, str(CHILD.parent), str(sweep.folder), *sweep.command[1:]]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen(command, env=environment)


@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_what_a_killed_sweep_was_running_dies_with_it_and_is_run_again(way: signal.Signals, tmp_path: Path) -> None:
    hang = tmp_path / "hang"
    hang.touch()
    sweep = make_sweep(tmp_path / "sweep", None, "--hang", str(hang))
    process = start(sweep, 3, 2)
    pids = [sweep.folder_of(number) / "pid" for number in (0, 1)]
    try:
        wait_for(lambda: all(path.is_file() and path.read_text() for path in pids))
        process.send_signal(way)
        process.wait(30)
        wait_for(lambda: not any(is_running(int(path.read_text())) for path in pids))
    finally:
        process.kill()
        hang.unlink()
    sweep.run(3)
    told = [json.loads((sweep.folder_of(number) / "trial.json").read_text()) for number in range(5)]
    assert [one["state"] for one in told] == ["INTERRUPTED"] * 2 + ["COMPLETE"] * 3
    assert {one["x"] for one in told[:2]} == {one["x"] for one in told[2:4]}
    assert [trial.number for trial in sweep.trials()] == [2, 3, 4]


def test_several_processes_share_a_study_and_repeat_nothing(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "sweep")
    processes = [start(sweep, 6, 2), start(sweep, 6, 1)]
    try:
        assert [process.wait(60) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    assert [trial.state.name for trial in sweep.trials()] == ["COMPLETE"] * 6
    assert len(set(drawn(sweep))) == 6 and len(list(sweep.folder.glob("trial-*/after.json"))) == 6
