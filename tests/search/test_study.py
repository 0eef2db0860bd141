"""A study: parallel, pruned, bounded, killed, continued. Its trials run recipe.py, which trains nothing."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmrl.cli.process import failure_reason
from lmrl.search import Sweep, SweepArguments, plot, read_space, summary

RECIPE = Path(__file__).with_name("recipe.py")
ROOT = RECIPE.parents[2]
RANGE = {"low": 1.0, "high": 9.0}


def make_sweep(folder: Path, *rest: str, x: Any = None, **options: Any) -> Sweep:
    space = {"x": x or RANGE}
    args = SweepArguments(**({"objective": "bleu", "space": space, "output_dir": str(folder)} | options))
    return Sweep(args, [str(RECIPE), *rest], read_space(space))


def enqueue(sweep: Sweep, *values: float) -> None:
    """Sets the arguments of the next trials."""
    for x in values:
        sweep.study.enqueue_trial({"x": x})


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
    return [trial.params["x"] for trial in sweep.finished()]


def states(sweep: Sweep) -> list[str]:
    return [trial.state.name for trial in sweep.study.trials]


def table(sweep: Sweep) -> list[list[str]]:
    """Returns the rows of the printed table, split at spaces."""
    return [line.split() for line in summary(sweep).splitlines()[1 : 1 + len(sweep.study.trials)]]


def test_the_best_is_the_best_within_the_bound_on_the_kl(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, max_kl=3.0, trials=4, workers=4)
    enqueue(sweep, 2.0, 8.0, 3.0, 1.0)
    sweep.run()
    assert sorted(trial.value for trial in sweep.finished()) == [10.0, 20.0, 30.0, 80.0]
    assert sweep.best().params == {"x": 3.0} and sweep.best().user_attrs["kl"] == 3.0
    lines = summary(sweep).splitlines()
    assert lines[0].split() == ["trial", "bleu", "kl", "reason", "x", "state"]
    assert [row[1:3] for row in table(sweep)] == [["30", "3"], ["20", "2"], ["10", "1"], ["80", "8"]]
    assert [row[3:-2] for row in table(sweep)] == [[], [], [], ["over", "max_kl"]]
    number = sweep.best().number
    command = f"python {RECIPE} --x 3.0 --output_dir {tmp_path}/trial-{number:04}"
    assert lines[-1] == f"The best is trial {number}: {command}"


def test_where_no_trial_keeps_the_bound_there_is_no_best(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, max_kl=0.5, x=[2.0], trials=1)
    sweep.run()
    plot(sweep)
    assert sweep.best() is None
    assert summary(sweep).splitlines()[-1] == "No trial is complete and within max_kl=0.5."


def test_plots_have_the_objective_and_the_kl_against_each_argument(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, x=[2.0, 4.0], trials=2, max_kl=3.0)
    enqueue(sweep, 2.0, 4.0)
    sweep.run()
    plot(sweep)
    assert sorted(path.name for path in tmp_path.glob("*.svg")) == ["kl.svg", "objective.svg"]
    assert all("<svg" in path.read_text() for path in tmp_path.glob("*.svg"))
    assert "rotate(-30)" in (tmp_path / "objective.svg").read_text()  # labels of a logarithmic axis need the room


def test_a_minimum_is_sought_where_less_is_better(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, x=[1.0, 2.0], objective="ter", trials=2, workers=2)
    enqueue(sweep, 2.0, 1.0)
    sweep.run()
    assert sweep.best().value == 10.0 and table(sweep)[0][1] == "10"


@pytest.mark.parametrize(
    ("objective", "direction", "expected"),
    [
        ("bleu", None, "maximize"),
        ("ter", "minimize", "minimize"),
        ("perplexity", None, "minimize"),
        ("reward/ter", None, "maximize"),
        ("length", "minimize", "minimize"),
        ("my_score", None, "maximize"),
        ("my_score", "minimize", "minimize"),
        ("ter", "maximize", "`direction` must be minimize for 'ter', got 'maximize'."),
        ("bleu", "minimize", "`direction` must be maximize for 'bleu', got 'minimize'."),
        ("kl", None, "`direction` must be maximize or minimize for 'kl', got ''."),
    ],
)
def test_the_direction_is_that_of_the_score(
    objective: str, direction: str | None, expected: str, tmp_path: Path
) -> None:
    sweep = make_sweep(tmp_path / "sweep", objective=objective, direction=direction)
    if expected.startswith("`"):
        with pytest.raises(ValueError, match=re.escape(expected)):
            sweep.run()
        assert not (tmp_path / "sweep").exists()
    else:
        assert sweep.direction == expected


def test_a_direction_that_the_first_trial_contradicts_stops_the_sweep(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, x=[1.0, 2.0], objective="loss", trials=5)
    with pytest.raises(ValueError, match="`direction` must be minimize for 'loss', got 'maximize'"):
        sweep.run()
    assert len(list(tmp_path.glob("trial-*"))) == 1


def test_the_reason_of_a_failure_is_found_behind_a_progress_bar(tmp_path: Path) -> None:
    bar = "\r  0%|          | 0/1 [00:00<?, ?it/s]"
    log = tmp_path / "run.log"
    log.write_text(f"a warning\n{bar}\r 50%|#####     | 1/2 [00:01<00:01, 1.0s/it]error: `beta` is wrong.\n{bar}")
    assert failure_reason(log, 2) == "`beta` is wrong."
    log.write_text(f"error: `x` is wrong.\nno error: of this one\n{bar}")
    assert failure_reason(log, 2) == "`x` is wrong."
    log.write_text("killed\n")
    assert failure_reason(log, -9) == "exit status -9: killed"


def test_a_pruned_trial_is_killed_and_the_table_has_its_reason(tmp_path: Path) -> None:
    hang = tmp_path / "hang"
    options = {"startup_trials": 1}
    sweep = make_sweep(tmp_path / "sweep", "--hang", str(hang), trials=1, **options)
    enqueue(sweep, 5.0, 1.0, 2.0)
    sweep.run()
    hang.touch()
    sweep = make_sweep(tmp_path / "sweep", "--hang", str(hang), trials=3, workers=2, **options)
    sweep.run()
    assert states(sweep) == ["COMPLETE", "PRUNED", "PRUNED"]
    for number in (1, 2):
        folder = sweep.folder_of(number)
        assert not is_running(int((folder / "pid").read_text())) and not (folder / "after.json").exists()
    assert sweep.best().number == 0 and "worse than others at step 1" in summary(sweep)


@pytest.mark.parametrize(("max_kl", "state"), [(3.0, "COMPLETE"), (None, "PRUNED")])
def test_no_trial_is_compared_with_one_over_the_bound(max_kl: float | None, state: str, tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, max_kl=max_kl, startup_trials=1, trials=2)
    enqueue(sweep, 5.0, 1.0)
    sweep.run()
    assert states(sweep) == ["COMPLETE", state]


def test_arguments_that_would_train_the_same_model_are_run_once(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, x=[2.0, 4.0], max_kl=3.0, trials=4)
    enqueue(sweep, 4.0, 2.0, 2.0, 4.0)
    sweep.run()
    trials = sweep.finished()
    assert [trial.value for trial in trials] == [40.0, 20.0, 20.0, 40.0]
    assert [trial.constraints["kl"] for trial in trials] == [1.0, -1.0, -1.0, 1.0]
    assert [trial.user_attrs["reason"] for trial in trials] == ["over max_kl", "", "as trial 1", "over max_kl"]
    assert [path.parent.name for path in sorted(tmp_path.glob("*/after.json"))] == ["trial-0000", "trial-0001"]
    assert sweep.best().number == 1


def test_a_failed_trial_has_its_reason_and_the_sweep_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = make_sweep(tmp_path, x=[13.0, 1.0], trials=2)
    enqueue(sweep, 13.0, 1.0)
    sweep.run()
    assert states(sweep) == ["FAIL", "COMPLETE"]
    reason = "`x` must be a lucky number, got 13."
    assert reason in summary(sweep).splitlines()[2]
    assert capsys.readouterr().err == (
        f"trial 0 {{'x': 13.0}}: fail, {reason}\ntrial 1 {{'x': 1.0}}: complete, bleu 10\n"
    )


def test_a_score_that_is_no_number_fails_its_trial_alone(tmp_path: Path) -> None:
    """JSON has no NaN: a reward that no row has is `null`, and so is a KL that overflowed, which is over any bound."""
    made = make_sweep(tmp_path, x=[11.0, 12.0], objective="reward", trials=2, max_kl=99.0)
    sweep = Sweep(made.args, made.command, made.space, reward_weights=(1.0,))
    enqueue(sweep, 11.0, 12.0)
    sweep.run()
    assert states(sweep) == ["FAIL", "COMPLETE"]
    assert [trial.user_attrs["reason"] for trial in sweep.finished()] == ["reward is nan", "over max_kl"]
    assert sweep.finished()[1].value == 120.0 and sweep.best() is None
    assert "over max_kl" in summary(sweep)


def test_the_kl_can_be_the_objective(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, x=[1.0, 2.0], objective="kl", direction="minimize", trials=2)
    enqueue(sweep, 2.0, 1.0)
    sweep.run()
    plot(sweep)
    assert summary(sweep).splitlines()[0].split() == ["trial", "kl", "reason", "x", "state"]
    assert [row[:2] for row in table(sweep)] == [["1", "1"], ["0", "2"]]


def test_where_all_trials_fail_their_reason_is_the_error(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, x=[13.0], trials=2)
    with pytest.raises(ValueError, match=r"All trials failed\. Trial 1: `x` must be a lucky number, got 13\."):
        sweep.run()


def test_a_score_that_is_not_measured_stops_the_sweep_at_once(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, x=[1.0, 2.0], objective="chrf", trials=5, workers=2)
    with pytest.raises(ValueError, match="`objective` must be one of bleu, ter, loss, kl, got 'chrf'"):
        sweep.run()
    assert len(list(tmp_path.glob("trial-*"))) <= 2


def test_an_objective_of_lmrl_is_a_score_or_the_weighted_rewards(tmp_path: Path) -> None:
    scores = {"bleu": 40.0, "reward/bleu": 0.5, "reward/length": 0.25, "reward/chrf": 0.9}  # the last is a metric only
    args = [SweepArguments(space={"x": [1]}, objective=name, output_dir=str(tmp_path)) for name in ("bleu", "reward")]
    bleu, reward = (Sweep(one, ["recipe.py"], {}, reward_weights=(1.0, 2.0)) for one in args)
    assert bleu._score(scores) == 40.0 and reward._score(scores) == 1.0
    logged = {f"eval_{name}": value for name, value in scores.items()}
    assert reward._score(logged, prefix="eval_") == 1.0
    assert reward._score({"reward/bleu": 0.5}) is None and bleu._score({}) is None
    assert reward._score({"reward": 0.7} | scores) == 0.7  # as reported, where a reward does not apply to every text
    unknown = SweepArguments(space={"x": [1]}, objective="blue", output_dir=str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"`objective` must be one of .*, got 'blue'\. Did you mean `bleu`\?"):
        Sweep(unknown, ["recipe.py"], {}, reward_weights=(1.0,)).run()
    assert not (tmp_path / "none").exists()


def test_a_study_that_was_stopped_draws_what_it_would_have_drawn(tmp_path: Path) -> None:
    options = {"startup_trials": 2, "prune": False}
    once = make_sweep(tmp_path / "once", trials=5, **options)
    once.run()
    make_sweep(tmp_path / "parts", trials=3, **options).run()
    parts = make_sweep(tmp_path / "parts", trials=5, **options)
    parts.run()
    assert drawn(once) == drawn(parts) and len(set(drawn(once))) == 5
    parts.run()  # nothing is left to do
    assert len(parts.study.trials) == 5


def test_an_incomplete_last_line_of_the_journal_does_not_spoil_the_study(tmp_path: Path) -> None:
    make_sweep(tmp_path, trials=1).run()
    with (tmp_path / "study.journal").open("a") as stream:
        stream.write('{"op_code":4,"worker')
    sweep = make_sweep(tmp_path, trials=2)
    sweep.run()
    assert states(sweep) == ["COMPLETE"] * 2


def test_a_folder_has_one_study(tmp_path: Path) -> None:
    make_sweep(tmp_path, trials=1).run()
    with pytest.raises(ValueError, match=r"`output_dir` must have a study of \(.*3\.0\), got \(.*None\)"):
        make_sweep(tmp_path, max_kl=3.0).run()
    (tmp_path / "study.journal").unlink()
    with pytest.raises(ValueError, match=r"`output_dir` must be a folder without the results .* with trial-0000\."):
        make_sweep(tmp_path).run()


def start(sweep: Sweep, trials: int, workers: int) -> "subprocess.Popen[bytes]":
    """Returns a process of its own that runs a sweep like this one."""
    code = (
        "import signal, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from test_study import make_sweep\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background processes ignore it\n"
        f"make_sweep(Path(sys.argv[2]), *sys.argv[3:], trials={trials}, workers={workers}).run()"
    )
    command = [sys.executable, "-c", code, str(RECIPE.parent), sweep.args.output_dir, *sweep.command[1:]]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen(command, env=environment)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_trials_of_a_killed_sweep_end_with_it_and_the_sweep_goes_on(
    number: signal.Signals, tmp_path: Path
) -> None:
    hang = tmp_path / "hang"
    folder = tmp_path / "sweep"
    make_sweep(folder, "--hang", str(hang), trials=1).run()
    kept = (folder / "trial-0000" / "after.json").read_bytes()
    hang.touch()
    sweep = make_sweep(folder, "--hang", str(hang), trials=3)
    process = start(sweep, 3, 2)
    pids = [sweep.folder_of(trial) / "pid" for trial in (1, 2)]
    try:
        wait_for(lambda: all(path.is_file() and path.read_text() for path in pids))
        process.send_signal(number)
        process.wait(30)
        wait_for(lambda: not any(is_running(int(path.read_text())) for path in pids))
    finally:
        process.kill()
        hang.unlink()
    sweep.run()
    assert [trial.number for trial in sweep.finished()] == [0, 3, 4]
    assert [trial.state.name for trial in sweep.finished()] == ["COMPLETE"] * 3
    assert (folder / "trial-0000" / "after.json").read_bytes() == kept
    assert all(not (sweep.folder_of(trial) / "after.json").exists() for trial in (1, 2))
    interrupted = "FAIL" if number == signal.SIGINT else "RUNNING"
    assert [row[-1] for row in table(sweep)] == ["COMPLETE"] * 3 + [interrupted] * 2


def test_several_processes_share_a_study_and_repeat_nothing(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "sweep")
    processes = [start(sweep, 6, 2), start(sweep, 6, 1)]
    try:
        assert [process.wait(60) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    # Those that the other process was running when the sixth ended are finished too.
    assert 6 <= len(sweep.finished()) <= 6 + 2
    assert {trial.state.name for trial in sweep.finished()} <= {"COMPLETE", "PRUNED"}
    assert len(set(drawn(sweep))) == len(sweep.finished())


def test_a_row_of_the_log_is_read_once_it_is_complete(tmp_path: Path) -> None:
    from lmrl.cli.process import read_rows

    path = tmp_path / "log.jsonl"
    assert read_rows(path, 0) == ([], 0)
    path.write_text('{"step": 1}\n{"st')
    assert read_rows(path, 0) == ([{"step": 1}], 12)
    path.write_text(json.dumps({"step": 1}) + "\n" + json.dumps({"step": 2}) + "\n")
    assert read_rows(path, 12) == ([{"step": 2}], 24)
