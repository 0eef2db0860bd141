"""`lmrl run --seeds` and `lmrl report` of folders of seeds, by a recipe that trains nothing."""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lmrl.seeds import run_seeds, split_flags

RECIPE = Path(__file__).with_name("recipe.py")
ROOT = RECIPE.parents[2]
LAUNCHER = [sys.executable, str(RECIPE.with_name("launcher.py"))]
COMMAND = [str(RECIPE), "--output_dir", "out"]

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str, seeds: tuple[int, ...] = (0, 1, 2), parallel: int = 3) -> int:
    """Runs the recipe with seeds, without `accelerate launch`."""
    return run_seeds([], [*COMMAND, *arguments], seeds, parallel, LAUNCHER)


def calls(seed: int, folder: str = "out") -> list[str]:
    """Returns the arguments of each call of the recipe for a seed."""
    return Path(folder, f"seed-{seed}", "argv.txt").read_text().splitlines()


def test_each_seed_has_a_folder_and_the_summary_their_spread(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--gain", "2") == 0
    assert [calls(seed) for seed in (0, 1, 2)] == [
        [f"--output_dir out --gain 2 --seed {seed} --output_dir out/seed-{seed}"] for seed in (0, 1, 2)
    ]
    found = json.loads(Path("out/seeds.json").read_text())
    assert (found["recipe"], found["seeds"], found["finished"]) == ("recipe", [0, 1, 2], [0, 1, 2])
    assert found["settings"]["gain"] == 2 and not {"seed", "output_dir"} & set(found["settings"])
    score = found["metrics"]["reward/bleu"]
    assert score["after"]["values"] == pytest.approx([2.02, 2.12, 2.22])
    assert score["change"]["values"] == pytest.approx([2.0, 2.1, 2.2]) and score["before"]["deviation"] == 0
    for stage, mean in (("after", 2.12), ("change", 2.1)):
        spread = score[stage]
        assert spread["mean"] == pytest.approx(mean) and spread["seeds"] == 3
        assert spread["deviation"] == pytest.approx(statistics.stdev(spread["values"]))
        half = 4.302652729749462 * 0.1 / 3**0.5  # Student's t with 2 degrees of freedom
        assert (spread["low"], spread["high"]) == pytest.approx((mean - half, mean + half))
        assert (spread["least"], spread["greatest"]) == pytest.approx((mean - 0.1, mean + 0.1))
    out, err = capsys.readouterr()
    line = "reward/bleu 0.0200 2.12 [1.87, 2.37] 0.1000 2.02 2.22 +2.10 [+1.85, +2.35]"
    assert "out over seeds\n" in out and line in [" ".join(line.split()) for line in out.splitlines()]
    assert out.endswith("Scores over seeds: out/seeds.json\nReport: out/seeds.html\n")
    assert "seeds   0, 1, 2; 3 at a time\n" in err and "seed 1: complete, reward/bleu 2.12, length 2.12, " in err


def test_seeds_side_by_side_have_a_port_each_and_one_alone_that_of_the_launcher(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLAGS_SEEN", "flags.txt")
    assert run() == 0
    assert run("--output_dir", "alone", seeds=(0, 1), parallel=1) == 0
    *beside, first, second = [line.split() for line in Path("flags.txt").read_text().splitlines()]
    assert len(beside) == 3 and first == second == []
    assert all(words[0] == "--main_process_port" and int(words[1]) > 1023 for words in beside)
    assert len({port for _, port in beside}) > 1


def test_the_page_has_the_curves_of_the_seeds_behind_their_mean(command: Command) -> None:
    run()
    status, out, _ = command("report", "out", "-o", "page.html")
    assert status == 0 and out.endswith("page.html\n") and "out over seeds" in out
    page = Path("page.html").read_text()
    assert "out: from 3.00 to 7.00" in page  # the mean of 2 to 6, 3 to 7 and 4 to 8
    assert page.count('stroke-width="1" opacity="0.5"') == 3
    for text in ("Before, after and change", "Each seed after training", "seed 2", "Student&#39;s t over seeds"):
        assert text in page


def test_what_a_classifier_is_compared_with_has_the_name_of_its_rule(command: Command) -> None:
    run()
    for folder in Path("out").glob("seed-*"):
        (folder / "before.json").rename(folder / "majority.json")
        (folder / "after.json").rename(folder / "classifier.json")
        (folder / "report.json").write_text('{"labels": ["majority", "classifier"]}')
    status, out, _ = command("report", "out", "-o", "page.html")
    assert status == 0 and "majority" in out and "before" not in out
    assert "Majority, after and change" in Path("page.html").read_text()


def test_a_seed_that_has_scores_is_not_run_again_and_another_is_added(capsys: pytest.CaptureFixture[str]) -> None:
    run(seeds=(0, 1))
    assert run(seeds=(0, 1, 5)) == 0
    assert [len(calls(seed)) for seed in (0, 1, 5)] == [1, 1, 1]
    assert json.loads(Path("out/seeds.json").read_text())["finished"] == [0, 1, 5]
    out, err = capsys.readouterr()
    assert "seed 0: complete before, reward/bleu 1.02, length 1.02\n" in err
    assert "No claim over seeds is possible with fewer than 3" in " ".join(out.split("seeds.html")[0].split())


def test_seeds_of_other_settings_are_refused_and_overwritten_if_requested() -> None:
    run()
    with pytest.raises(ValueError) as error:
        run("--gain", "3")
    assert str(error.value) == (
        "`gain` must be that of the seeds in 'out', 1.0, got 3.0. Use another output_dir, or --overwrite."
    )
    assert run("--gain", "3", "--overwrite") == 0
    assert [len(calls(seed)) for seed in (0, 1, 2)] == [2, 2, 2]
    assert json.loads(Path("out/seeds.json").read_text())["metrics"]["length"]["after"]["mean"] == pytest.approx(3.12)


def test_seeds_beside_those_of_other_settings_are_refused_until_these_are_removed() -> None:
    run(seeds=(0, 1))
    for more in ((), ("--overwrite",)):  # which would begin the given seeds anew alone
        with pytest.raises(ValueError) as error:
            run("--gain", "3", *more, seeds=(1, 2))
        assert str(error.value).startswith("`gain` must be that of the seeds in 'out', 1.0, got 3.0.")
        assert str(error.value).endswith(f"or remove seed-0{', seed-1' if not more else ''}.")
    shutil.rmtree("out/seed-0")
    assert run("--gain", "3", seeds=(2, 3)) == 0


def test_a_seed_that_fails_leaves_the_others_and_its_last_lines_are_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("--fail", "1", seeds=(0, 1, 2, 3)) == 2
    out, err = capsys.readouterr()
    assert "seed 1: failed, `gain` is of bad luck.\n" in err
    assert err.endswith(
        "Seed 1 failed with exit status 2. out/seed-1/run.log ends:\n"
        "  a line of the run\n  error: `gain` is of bad luck.\n  a warning that comes last\n"
    )
    assert json.loads(Path("out/seeds.json").read_text())["finished"] == [0, 2, 3]
    assert "Without seed 1, which has no scores." in out


def test_a_seed_without_scores_goes_on_from_its_checkpoint_or_begins_anew() -> None:
    for seed, names in ((0, ("log.jsonl",)), (1, ("checkpoint-4/trainer_state.json",)), (2, ("model.safetensors",))):
        for name in names:
            path = Path("out", f"seed-{seed}", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
    run()
    latest = "--resume_from_checkpoint latest"
    endings = [latest, latest, "--resume_from_checkpoint false --overwrite"]
    assert [calls(seed)[0].partition(f"out/seed-{seed} ")[2] for seed in (0, 1, 2)] == endings


def test_ctrl_c_ends_all_seeds_and_the_same_command_goes_on(tmp_path: Path) -> None:
    hang = tmp_path / "hang"
    hang.touch()
    arguments = [*COMMAND, "--hang", str(hang)]
    code = (
        "import signal, sys; from lmrl.seeds import run_seeds; "
        "signal.signal(signal.SIGINT, signal.default_int_handler); "  # a shell has it ignored in the background
        f"sys.exit(run_seeds([], {arguments!r}, [0, 1, 2], 3, {LAUNCHER!r}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LMRL_COMMAND": "lmrl run recipe.py --seeds 0 1 2"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (Path("out/seed-1/pid").is_file() and Path("out/seed-0/after.json").is_file()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err, err
    assert err.endswith(
        "interrupted. The same command goes on with what is not done yet:\n  lmrl run recipe.py --seeds 0 1 2\n"
    )
    with pytest.raises(ProcessLookupError):
        os.kill(int(Path("out/seed-1/pid").read_text()), 0)
    hang.unlink()
    assert run("--hang", str(hang)) == 0
    assert [len(calls(seed)) for seed in (0, 1)] == [1, 2]


def test_the_command_runs_each_seed_by_accelerate_launch(command: Command) -> None:
    words = ("run", "--num_processes", "1", RECIPE, "--seeds", "3", "--gain", "2", "--output_dir", "out")
    status, out, err = command(*words)
    assert status == 0, err
    assert calls(3) == ["--gain 2 --output_dir out --seed 3 --output_dir out/seed-3"]
    assert "No claim over seeds is possible" in out


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--seeds 0 x", "`seeds` must be an integer, got 'x'."),
        ("--seeds", "`seeds` must have a value, got none."),
        ("--seeds 0 1 0", "`seeds` must be given once and differ, got 0 1 0. Leave one out."),
        ("--seeds 0 --seeds 1", "`seeds` must be given once and differ, got 0 1. Leave one out."),
        ("--seeds 0 -1", "`seeds` must be at least 0, got -1."),
        ("--seeds 4294967296", "`seeds` must be at most 4294967295, got 4294967296."),
        ("--seeds 0 1 --seed=3", "`seed` must be left out where `seeds` are given, got both. Add it to `seeds`."),
        ("--seeds 0 1 --parallel 0", "`parallel` must be at least 1, got 0."),
        ("--parallel 2", "`parallel` must be given with `seeds`, got 2 alone. Add --seeds 0 1 2."),
    ],
)
def test_flags_of_seeds_that_make_no_sense_are_refused(words: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        split_flags(words.split())
    assert str(error.value) == message


def test_the_words_of_the_recipe_keep_their_order() -> None:
    words = ["--rewards", "bleu", "rougeL", "--seeds", "2", "0", "--beta", "-0.5", "--parallel=2", "--x", '{"a": 1}']
    rest = ["--rewards", "bleu", "rougeL", "--beta", "-0.5", "--x", '{"a": 1}']
    assert split_flags(words) == ([2, 0], 2, rest)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--eval_output_dir", "x"),
            "`eval_output_dir` must be left out where `seeds` are given, got 'x'. The scores",
        ),
        (
            ("--overwrite", "--resume_from_checkpoint", "latest"),
            "`overwrite` must not be set with `resume_from_checkpoint`, got 'latest'.",
        ),
        (
            ("--resume_from_checkpoint", "true"),
            "`resume_from_checkpoint` must be left out where `seeds` are given, got",
        ),
    ],
)
def test_arguments_that_seeds_cannot_share_are_refused(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError) as error:
        run(*arguments)
    assert str(error.value).startswith(message) and not Path("out").exists()


def test_the_folder_of_a_single_run_is_refused() -> None:
    Path("out").mkdir()
    Path("out/log.jsonl").write_text("{}")
    with pytest.raises(
        ValueError, match="`output_dir` must be a folder without the results of an earlier run, got 'out'"
    ):
        run()


def test_processes_of_two_runs_have_streams_of_their_own() -> None:
    with pytest.raises(
        ValueError, match=r"`seeds` must be at least 4 apart with 4 processes, got 1 and 3: .*Take 0 4 8"
    ):
        run_seeds(["--num_processes=4"], COMMAND, (9, 3, 1), 1, LAUNCHER)


def test_the_processes_of_a_file_of_accelerate_count_too(command: Command) -> None:
    status, _, err = command("run", "--config_file", "ddp", RECIPE, "--seeds", "0", "1", "--output_dir", "out")
    assert status == 2 and "must be at least 2 apart with 2 processes, got 0 and 1" in err, err


# -- comparison -------------------------------------------------------------------------------------------------------


def run_into(folder: str, *arguments: str, seeds: tuple[int, ...] = (0, 1, 2)) -> None:
    assert run_seeds([], [str(RECIPE), *arguments, "--output_dir", folder], seeds, 3, LAUNCHER) == 0


def test_configurations_are_compared_over_seeds_and_rows(command: Command) -> None:
    run_into("low")
    run_into("high", "--gain", "2", seeds=(0, 1, 2, 3))
    status, out, err = command("report", "low", "high", "-o", "both.html")
    assert status == 0, err
    line = next(line for line in out.splitlines() if line.startswith("  reward/bleu"))
    # 1.05 [0.83, 1.27] is scipy's ttest_ind([1.0, 1.1, 1.2], [2.0, 2.1, 2.2, 2.3], equal_var=False): rows add nothing.
    assert " ".join(line.split()) == "reward/bleu 1.12, 0.1000 high 2.17, 0.1291 +1.05 [+0.83, +1.27] <0.001* <0.001"
    assert "over the seeds (low 3, high 4)." in out and out.endswith("both.html\n")
    page = Path("both.html").read_text()
    assert "low: from 3.00 to 7.00. high: from 4.50 to 8.50" in page
    assert '<th scope="row">gain' not in page  # the recipe writes no run.json
    run_into("few", seeds=(0, 1))
    out = command("report", "low", "few")[1]
    assert "No claim over seeds is possible with fewer than 3 of each configuration: run more." in out
    assert "*" not in out.split("Mean and")[0]


def test_what_cannot_be_compared_is_an_error_in_one_line(command: Command) -> None:
    run_into("a")
    run_into("rows", "--rows", "4")
    run_into("metrics", "--metric", "reward/chrf")
    for words, message in (
        (
            ("a", "rows"),
            "`evaluations` must be of the same rows, got 4 rows of 'rows/seed-0', of which 4 are among the 5",
        ),
        (("a", "a"), "`folders` must be different folders of runs, got a a."),
        (("a", "a/"), "`folders` must be different folders of runs, got a a/."),
        (
            ("a", "a/seed-0"),
            "`lmrl report` must have folders of seeds alone or of single runs alone, got 'a/seed-0', ",
        ),
    ):
        status, out, err = command("report", *words)
        assert (status, out, err.count("\n")) == (2, "", 1) and err.startswith(f"error: {message}"), err
    out = command("report", "a", "metrics")[1]
    assert "Not compared, as not all have it, or computed in another way: reward/bleu, reward/chrf." in " ".join(
        out.split()
    )
    mixed = Path("a/seed-1/after.json")
    mixed.write_text(mixed.read_text().replace("reward/bleu", "reward/other"))
    err = command("report", "a")[2]
    assert err.startswith(
        "error: The seeds in 'a' must have the same metrics, got reward/bleu, reward/other of only one"
    )
