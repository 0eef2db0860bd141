"""The sweep on the demo: real trials, killed, pruned, bounded, and what is refused before the first."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from lmrl.evaluation import read_json
from lmrl.search import SweepArguments

ROOT = Path(__file__).resolve().parents[1]
SHORT = (
    *("--max_steps", "2", "--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "1"),
    *("--max_completion_length", "12", "--eval_rows", "4", "--eval_batch_size", "4", "--report_to", "none"),
)
RATES = '{"learning_rate": [0.0003, 0.003, 0.01], "beta": {"low": 0.01, "high": 0.1, "log": true}}'

Recipe = Callable[..., tuple[int, str, str]]


def test_two_trials_run_at_once_and_the_same_command_finds_them(recipe: Recipe, tmp_path: Path) -> None:
    written = "learning_rate: [0.0003, 0.003]\n  beta: {low: 1e-2, high: 0.1, log: true}"
    Path("sweep.yaml").write_text(f"space:\n  {written}\ntrials: 2\nworkers: 1\noutput_dir: out\n")
    command = ("--config", "sweep.yaml", "--workers", "2", "--", *SHORT)
    status, out, err = recipe("sweep", *command)
    assert status == 0, err
    assert "No trial is pruned: there is no --eval_strategy" in err
    assert re.match(r" *trial +reward +kl +reason +beta +learning_rate +state\n", out)
    found = {folder: read_json(folder / "after.json").values for folder in sorted(Path("out").glob("trial-*"))}
    rewards = [0.5 * value["reward/bleu"] + 0.5 * value["reward/rougeL"] for value in found.values()]
    printed = sorted(re.findall(r"^ +(\d) +([\d.]+) .*COMPLETE$", out, flags=re.MULTILINE))
    assert len(found) == 2 and [float(value) for _, value in printed] == pytest.approx(rewards, rel=1e-3)
    best = f"out/trial-{rewards.index(max(rewards)):04}"
    last = re.search(r"The best is trial \d: python (\S*recipes/reinforce_gen.py) (.*)\n", out)
    assert Path(last[1]).resolve() == ROOT / "recipes" / "reinforce_gen.py"
    assert last[2].endswith(f"--output_dir {best}")
    assert [path.name for path in sorted(Path("out").glob("*.svg"))] == ["kl.svg", "objective.svg"]
    assert recipe("sweep", *command)[1] == out


@pytest.mark.slow
def test_a_sweep_of_ppo_is_killed_and_goes_on(recipe: Recipe, tmp_path: Path) -> None:
    measured = ("--eval_strategy", "steps", "--eval_steps", "1", "--num_generations", "2")
    command = (
        *("--recipe", "ppo_gen", "--space", RATES, "--objective", "bleu", "--max_kl", "0.05", "--trials", "4"),
        *("--workers", "2", "--startup_trials", "6", "--seed", "1", "--output_dir", "out", "--", *SHORT, *measured),
    )
    process = subprocess.Popen([sys.executable, str(ROOT / "recipes" / "sweep.py"), *command])
    try:
        deadline = time.monotonic() + 240
        while not list(Path("out").glob("trial-*/after.json")):  # one is done, the next ones run
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        time.sleep(2)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    status, out, err = recipe("sweep", *command)
    assert status == 0, err
    states = re.findall(r"(COMPLETE|PRUNED|FAIL|RUNNING)$", out, flags=re.MULTILINE)
    assert states.count("COMPLETE") + states.count("PRUNED") == 4
    assert 1 <= states.count("RUNNING") <= 2 and len(states) <= 6
    assert "over max_kl" in out  # at a learning rate of 0.01
    seen = [json.loads(line) for line in Path("out/trial-0000/log.jsonl").read_text().splitlines()]
    assert "eval_bleu" in [name for row in seen for name in row]


def test_a_script_that_lmrl_does_not_know_is_swept(recipe: Recipe, tmp_path: Path) -> None:
    script = ROOT / "tests" / "search" / "recipe.py"
    space = '{"x": {"low": 1, "high": 4}}'
    command = ("--recipe", str(script), "--space", space, "--objective", "bleu", "--trials", "2", "--workers", "2")
    status, out, err = recipe("sweep", *command, "--output_dir", "out")
    assert status == 0, err
    values = [read["scores"]["bleu"]["value"] for read in map(json.loads, _texts("out/trial-*/after.json"))]
    assert len(values) == 2 and set(values) <= {10.0, 20.0, 30.0, 40.0}
    assert re.search(rf"The best is trial \d: python \S*recipe.py --x {max(values) / 10:g} --output_dir out", out)


def _texts(pattern: str) -> list[str]:
    return [path.read_text() for path in Path().glob(pattern)]


def test_arguments_that_every_trial_would_refuse_are_refused_before_the_first(recipe: Recipe, tmp_path: Path) -> None:
    for argv, message in (
        (("--space", '{"learning_rat": [1]}'), "got 'learning_rat'. Did you mean `learning_rate`?"),
        (("--spac", "{}"), "Unknown argument `--spac`. Did you mean `--space`?"),
        (("--space", RATES, "--", "--bta", "1"), "Unknown argument `--bta`. Did you mean `--beta`?"),
        (("--space", RATES, "--", "--eval_output_dir", "x"), "`eval_output_dir` must not be set in a sweep, got 'x'."),
        (("--space", '{"rewards": [["bleu"], ["chrf"]]}'), "`objective` must be a metric where rewards are searched"),
        (("--space", RATES, "--objective", "reward/rougel"), "Did you mean `reward/rougeL`?"),
        (("--space", RATES, "--recipe", "nowhere.py"), "nowhere.py"),
    ):
        status, _, err = recipe("sweep", *argv)
        assert status == 2 and message in err.splitlines()[-1], err
    assert not list(tmp_path.iterdir())


def test_a_file_with_a_name_that_does_not_exist_is_one_line(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text("spce: {}\n")
    err = recipe("sweep", "--config", "sweep.yaml")[2]
    assert err.startswith("error: ") and "`spce`" in err and "Did you mean `space`?" in err and err.count("\n") == 1


def test_help_describes_each_argument(recipe: Recipe) -> None:
    status, out, err = recipe("sweep", "--help", "all")
    assert (status, err) == (0, "")
    for field in fields(SweepArguments):
        assert f"--{field.name}" in out
        assert " ".join(field.metadata["help"].split()[:5]) in " ".join(out.split())


def test_without_optuna_there_is_one_line(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    status, _, err = recipe("sweep", "--space", RATES, "--output_dir", "out")
    message = "error: A sweep needs filelock, matplotlib and optuna. Install lmrl[sweep]."
    assert (status, err.splitlines()[-1], Path("out").exists()) == (2, message, False)


def test_the_recipe_is_a_page_with_a_command_above() -> None:
    text = (ROOT / "recipes" / "sweep.py").read_text()
    assert len(text.splitlines()) <= 60 and "python recipes/sweep.py --help" in text.split('"""')[1]
