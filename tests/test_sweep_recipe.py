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
    assert "No trial is pruned: behind -- there is no --eval_strategy" in err
    assert re.search(r"trial +reward +KL +learning_rate +beta\n", out)
    found = {folder: read_json(folder / "after.json").values for folder in sorted(Path("out").glob("trial-*"))}
    rewards = [0.5 * value["reward/bleu"] + 0.5 * value["reward/rougeL"] for value in found.values()]
    told = [json.loads((folder / "trial.json").read_text())["reward"] for folder in found]
    assert len(found) == 2 and told == pytest.approx(rewards, abs=1e-9)
    best = f"out/trial-{rewards.index(max(rewards)):04}"
    last = re.search(r"The best again: python (\S*recipes/reinforce_gen.py) (.*)\n", out)
    assert Path(last[1]).resolve() == ROOT / "recipes" / "reinforce_gen.py" and last[2].endswith(
        f"--output_dir {best}"
    )
    assert "Picture: out/sweep.svg." in out and Path("out/sweep.svg").read_text().count("<svg") == 1 + 4
    assert recipe("sweep", *command)[1] == out


@pytest.mark.slow
def test_a_sweep_of_ppo_is_killed_and_goes_on(recipe: Recipe, tmp_path: Path) -> None:
    measured = ("--eval_strategy", "steps", "--eval_steps", "1", "--num_generations", "2")
    command = (
        *("--recipe", "ppo_gen", "--space", RATES, "--objective", "bleu", "--max_kl", "0.05", "--trials", "4"),
        *("--workers", "2", "--startup_trials", "2", "--output_dir", "out", "--", *SHORT, *measured),
    )
    process = subprocess.Popen([sys.executable, str(ROOT / "recipes" / "sweep.py"), *command])
    try:
        deadline = time.monotonic() + 240
        while not list(Path("out").glob("trial-*/trial.json")):  # one is done, the next ones run
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    status, out, err = recipe("sweep", *command)
    assert status == 0, err
    told = [json.loads(path.read_text()) for path in sorted(Path("out").glob("trial-*/trial.json"))]
    done = [one for one in told if one["state"] != "INTERRUPTED"]
    assert len(done) == 4 and {one["state"] for one in done} <= {"COMPLETE", "PRUNED"}
    assert 1 <= len(told) - len(done) <= 2
    assert "over max_kl" in out  # at a learning rate of 0.01
    seen = [json.loads(line) for line in Path("out/trial-0000/log.jsonl").read_text().splitlines()]
    assert "eval_bleu" in [name for row in seen for name in row]


def test_what_every_trial_would_refuse_is_refused_before_the_first(recipe: Recipe, tmp_path: Path) -> None:
    for argv, sentence in (
        (("--space", '{"learning_rat": [1]}'), "'learning_rat', which is no argument of the recipe: did you mean"),
        (("--spac", "{}"), "Unknown argument `--spac`. Did you mean `--space`?"),
        (("--space", RATES, "--", "--bta", "1"), "Unknown argument `--bta`. Did you mean `--beta`?"),
        (("--space", RATES, "--", "--beta", "-1"), "beta is -1.0, and must be at least 0"),
        (("--space", RATES, "--", "--eval_output_dir", "x"), "eval_output_dir is set"),
        (("--space", '{"rewards": [["bleu"], ["chrf"]]}'), "objective is reward, which is another one with other"),
        (("--space", RATES, "--objective", "blue"), "objective is 'blue': did you mean bleu"),
    ):
        status, _, err = recipe("sweep", *argv)
        assert status == 2 and sentence in err.splitlines()[-1], err
    assert not list(tmp_path.iterdir())


def test_a_file_with_a_name_that_does_not_exist_is_one_sentence(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text("spce: {}\n")
    sentence = "error: sweep.yaml: unknown name `spce`. Did you mean `space`?\n"
    assert recipe("sweep", "--config", "sweep.yaml")[2] == sentence


def test_help_says_what_each_argument_does(recipe: Recipe) -> None:
    status, out, err = recipe("sweep", "--help", "all")
    assert (status, err) == (0, "")
    for field in fields(SweepArguments):
        assert f"--{field.name}" in out
        assert " ".join(field.metadata["help"].split()[:5]) in " ".join(out.split())


def test_without_optuna_there_is_one_sentence(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    status, _, err = recipe("sweep", "--space", RATES, "--output_dir", "out")
    sentence = "error: optuna is not installed, and a sweep needs it: pip install 'lmrl[sweep]'"
    assert (status, err.splitlines()[-1], Path("out").exists()) == (2, sentence, False)


def test_the_recipe_is_a_page_with_a_command_above() -> None:
    text = (ROOT / "recipes" / "sweep.py").read_text()
    assert len(text.splitlines()) < 100 and "python recipes/sweep.py --help" in text.split('"""')[1]
