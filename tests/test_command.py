"""The command `lmrl`: from a checkout, and from a wheel installed into an environment of its own."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lmrl
from lmrl.evaluation import Completion, Evaluation, report
from lmrl.evaluation.rows import row_ids
from lmrl.evaluation.scores import mean_score

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.py"))
CONFIGS = sorted(path.stem for path in (ROOT / "recipes" / "configs").glob("*.yaml"))
SHORT = (
    *("--max_steps", "2", "--per_device_train_batch_size", "8", "--max_completion_length", "12"),
    *("--eval_rows", "4", "--eval_batch_size", "4"),
)

TALK = ("merge runs/rl runs/plain", "generate runs/rl", "chat runs/rl")

Command = Callable[..., tuple[int, str, str]]


def unwrapped(listing: str) -> list[str]:
    """Returns a line for each entry of a list whose descriptions are wrapped."""
    return listing.replace("\n" + " " * 26, " ").splitlines()


def launched(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in a folder, offline on a CPU, without this checkout on the path; returns its output."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    offline = {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HOME": str(folder / "hf"),
    }
    return subprocess.run(
        command, cwd=folder, env=kept | offline | environment, capture_output=True, text=True, check=False
    )


def test_list_has_a_sentence_for_each_recipe_and_configuration(command: Command) -> None:
    status, out, err = command("list")
    assert (status, err) == (0, "")
    assert all(len(line) <= 119 for line in out.splitlines())
    lines = unwrapped(out)
    assert {line.split()[0] for line in lines} == {*RECIPES, *CONFIGS}
    assert all(len(line.split(maxsplit=1)[1]) > 20 and not line.endswith("...") for line in lines)
    demo = "a small GPT-2 that turns facts about a footpath into a sentence, rewarded by BLEU and ROUGE-L"
    below = lines.index(next(line for line in lines if line.startswith("ppo_gen")))
    assert lines[below + 1].startswith("    demo_ppo ") and lines[below + 1].endswith(demo)
    assert lines[below + 2].startswith("    demo_sft_to_ppo ")


def test_copy_writes_a_recipe_with_its_configurations_and_overwrites_nothing(command: Command, tmp_path: Path) -> None:
    status, out, _ = command("copy", "ppo_gen", tmp_path / "new")
    names = [
        "ppo_gen.py",
        *(f"configs/{name}.yaml" for name in ("demo_ppo", "demo_sft_to_ppo", "e2e_ppo", "e2e_smollm2", "imdb_ppo")),
    ]
    assert (status, out.splitlines()) == (0, [str(tmp_path / "new" / name) for name in names])
    for name in names:
        assert (tmp_path / "new" / name).read_text() == (ROOT / "recipes" / name).read_text()

    (tmp_path / "new" / "ppo_gen.py").write_text("changed")
    (tmp_path / "new" / "configs" / "e2e_ppo.yaml").unlink()
    status, out, err = command("copy", "ppo_gen", tmp_path / "new")
    assert (status, out) == (2, "") and err.startswith(f"error: The copy would overwrite {tmp_path}/new/ppo_gen.py, ")
    assert (tmp_path / "new" / "ppo_gen.py").read_text() == "changed"
    assert not (tmp_path / "new" / "configs" / "e2e_ppo.yaml").exists()
    assert command("copy", "--force", "ppo_gen", tmp_path / "new")[0] == 0
    assert (tmp_path / "new" / "ppo_gen.py").read_text() == (ROOT / "recipes" / "ppo_gen.py").read_text()


def test_copy_writes_a_configuration_alone(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("copy", "gpt2_lora")[:2] == (0, "gpt2_lora.yaml\n")
    assert [path.name for path in tmp_path.iterdir()] == ["gpt2_lora.yaml"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["lst"],
            "`lmrl` must be followed by one of list, copy, run, report, merge, generate, chat, got 'lst'. "
            "Did you mean `list`?",
        ),
        (
            ["ppo_gen", "--max_steps", "2"],
            "`lmrl` must be followed by one of list, copy, run, report, merge, generate, chat, got 'ppo_gen'. "
            "Did you mean `lmrl run ppo_gen`?",
        ),
        (["list", "x"], "`lmrl list` must have no arguments, got x."),
        (["copy"], "`lmrl copy` must have a name and a folder, got none."),
        (["copy", "ppo_gn", "."], "Unknown recipe `ppo_gn`. Did you mean `ppo_gen`?"),
        (["copy", "zzz", "."], "Unknown recipe `zzz`. `lmrl list` prints all of them."),
        (["copy", "ppo_gen", "--forse"], "Unknown argument `--forse`. Did you mean `--force`?"),
        (
            ["run", "ppo_gn"],
            "`lmrl run` must have a recipe's name or its .py file, got 'ppo_gn'. Did you mean `ppo_gen`?",
        ),
        (
            ["run", "--cpu"],
            "`lmrl run` must have a recipe's name or its .py file, got none. `lmrl list` prints all of them.",
        ),
        (
            ["run", "ppo_gen", "--config", "demo_pp"],
            "`--config` must be a file or the name of one that comes with lmrl, got 'demo_pp'. Did you mean "
            "`demo_ppo`?",
        ),
        (
            ["run", "ppo_gen", "--config=demo_pp"],
            "`--config` must be a file or the name of one that comes with lmrl, got 'demo_pp'. Did you mean "
            "`demo_ppo`?",
        ),
        (
            ["run", "--num_proceses", "2", "ppo_gen"],
            "Unknown argument `--num_proceses` of `accelerate launch`. Did you mean `--num_processes`?",
        ),
        (
            ["run", "--max_steps", "2", "ppo_gen"],
            "Unknown argument `--max_steps` of `accelerate launch`. It belongs to ppo_gen, reinforce_gen, sft, "
            "train_classifier and train_reward_model: write it behind the recipe.",
        ),
    ],
)
def test_a_wrong_call_is_one_line(argv: list[str], message: str, command: Command) -> None:
    assert command(*argv) == (2, "", f"error: {message}\n")


def test_the_command_prints_its_version(command: Command) -> None:
    assert command("--version") == (0, f"{lmrl.__version__}\n", "")


@pytest.mark.parametrize("name", ["list", "copy", "run", "report"])
def test_each_command_has_help(name: str, command: Command) -> None:
    status, out, err = command(name, "--help")
    assert (status, err) == (0, "") and all(line.startswith(f"    lmrl {name} ") for line in out.splitlines()) and out


def test_without_arguments_the_command_prints_its_help(command: Command) -> None:
    for argv in ([], ["--help"], ["-h"]):
        status, out, _ = command(*argv)
        assert status == 0
        assert all(f"lmrl {name}" in out for name in ("list", "copy ppo_gen .", "run ppo_gen --config", *TALK))


def test_run_launches_a_copied_recipe_with_a_configuration_by_name(command: Command, tmp_path: Path) -> None:
    command("copy", "reinforce_gen", tmp_path)
    recipe = tmp_path / "reinforce_gen.py"
    recipe.write_text(recipe.read_text().replace("def main() -> None:", 'def main() -> None:\n    print("changed")'))
    launch = [sys.executable, "-m", "lmrl", "run", "--num_processes", "1", "reinforce_gen.py"]
    done = launched(
        [*launch, "--config", "demo_reinforce", *SHORT, "--output_dir", "out"], tmp_path, PYTHONPATH=str(ROOT)
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("changed\n") and done.stdout.endswith("The model is in out\n")
    assert "accelerate launch" not in done.stderr  # it warns of each flag that it has to choose itself
    failed = launched([*launch, "--zzz"], tmp_path, PYTHONPATH=str(ROOT))
    assert failed.returncode != 0 and failed.stderr.startswith("error: Unknown argument `--zzz`.")
    assert "Traceback" not in failed.stderr


def test_the_configuration_of_accelerate_is_found_where_accelerate_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "cache" / "huggingface" / "accelerate").mkdir(parents=True)
    (tmp_path / "cache" / "huggingface" / "accelerate" / "default_config.yaml").write_text("num_processes: 1\n")
    code = "import lmrl.__main__ as command; print(command._launch_defaults([]))"
    environment = {name: value for name, value in os.environ.items() if name != "HF_HOME"}
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


def test_a_wheel_in_an_environment_of_its_own_runs_the_demo_from_an_empty_folder(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="the wheel is built without the network")
    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", str(ROOT)]
    subprocess.run([sys.executable, *build, "--wheel-dir", str(tmp_path)], check=True)
    (wheel,) = tmp_path.glob("lmrl-*.whl")
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = ["-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, *install], check=True)
    # The dependencies are those of the environment of the tests, of which no .pth file (of a checkout) is followed.
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    empty = tmp_path / "empty"
    empty.mkdir()
    lmrl = str(python.with_name("lmrl"))
    where = launched([str(python), "-c", "import lmrl, sys; print(lmrl.__file__)"], empty)
    assert Path(where.stdout.strip()).is_relative_to(site), where
    listed = launched([lmrl, "list"], empty)
    assert {line.split()[0] for line in unwrapped(listed.stdout)} == {*RECIPES, *CONFIGS}
    done = launched([lmrl, "run", "ppo_gen", *SHORT], empty)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("The model is in runs/demo_ppo\n") and "accelerate launch" not in done.stderr
    assert (empty / "runs" / "demo_ppo" / "report.html").is_file()
    assert (empty / "runs" / "demo_ppo" / "model.safetensors").is_file()


# -- the pages of runs ------------------------------------------------------------------------------------------------


def run_folder(folder: Path, gain: float, rows: list[dict[str, Any]], **settings: Any) -> Path:
    """Writes what a run leaves behind, with rewards that rise by `gain` a step."""
    folder.mkdir(parents=True)
    log = [{"step": step, "reward": gain * step, "learning_rate": 1e-4} for step in (1, 2, 3)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    (folder / "run.json").write_text(json.dumps({"recipe": "ppo_gen", "training": settings}))
    evaluations = {}
    for label, value in (("before", 0.0), ("after", 3 * gain)):
        score = mean_score("reward/bleu", "sig", [value] * len(rows), True)
        completions = [Completion(index, 0, f"{label} of {folder.name}", 3, True) for index in range(len(rows))]
        evaluations[label] = Evaluation(completions, {"reward/bleu": score}, {"max_new_tokens": 8}, row_ids(rows))
    report(evaluations, rows, folder, 0, logs={"after": log}, config=settings, rewarded=["bleu"], title=folder.name)
    return folder


def test_report_writes_the_page_of_a_run_anew(command: Command, tmp_path: Path) -> None:
    rows = [{"prompt": f"p{row}", "references": ["r"]} for row in range(8)]
    folder = run_folder(tmp_path / "a", 0.1, rows, seed=1, hub_token="s3cret")
    written = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    assert "s3cret" not in (folder / "report.json").read_text()
    page = f"{tmp_path}/page.html"
    assert command("report", f"--output={page}", folder)[:2] == (0, f"{page}\n")
    status, out, _ = command("report", folder)
    assert status == 0 and out == f"{folder}/report.html\n"
    assert (folder / "report.html").read_bytes() == written


def test_report_shows_a_run_that_still_trains(command: Command, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1, "reward": 0.5}\n{"step": 2, "reward": 0.625}\n{"st')
    (tmp_path / "run.json").write_text('{"training": {"seed": 7}}')
    line = {"step": 1, "prompt": "p", "completion": "c", "rewards": {"r": 0.5}, "reward": 0.5, "advantage": 0.25}
    (tmp_path / "rollouts.jsonl").write_text(json.dumps({**line, "length": 3, "finished": True}) + "\n{")
    assert command("report", tmp_path, "-o", tmp_path / "now.html")[:2] == (0, f"{tmp_path}/now.html\n")
    page = (tmp_path / "now.html").read_text()
    assert "reward: from 0.5000 to 0.6250" in page.replace("training: ", "reward: ")
    assert 'data-values="0.5,0.25"' in page and "<dt>seed</dt><dd><code>7</code></dd>" in page


def test_report_names_a_damaged_file(command: Command, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1, "reward": 0.5}\n')
    for content in (b'{"training": ', b'{"training": "\xff"}'):
        (tmp_path / "run.json").write_bytes(content)
        status, _, err = command("report", tmp_path)
        assert status == 2 and f"`{tmp_path}/run.json` must be a JSON object, got '{{" in err


def test_report_overlays_runs(command: Command, tmp_path: Path) -> None:
    rows = [{"prompt": f"p{row}", "references": ["r"]} for row in range(8)]
    first = run_folder(tmp_path / "low", 0.1, rows, seed=1, beta=0.05, output_dir="low")
    second = run_folder(tmp_path / "high", 0.2, rows[::-1], seed=1, beta=0.5, output_dir="high")
    status, out, _ = command("report", first, second, "--output", tmp_path / "both.html")
    assert status == 0 and out == f"{tmp_path}/both.html\n"
    page = (tmp_path / "both.html").read_text()
    for expected in (
        "<h1>low and high</h1>",
        "low: from 0.1000 to 0.3000. high: from 0.2000 to 0.6000",  # both curves in one chart
        '<td>0.3000<small class="own">[0.3000, 0.3000]</small></td><td>0.6000',
        '<span class="good">+0.3000</span>',
        '<th scope="row">beta</th><td><code>0.05</code></td><td><code>0.5</code></td>',
        "after of <del>low</del>",
    ):
        assert expected in page
    assert '<th scope="row">seed</th>' not in page and '<th scope="row">output_dir</th>' not in page


def test_runs_of_different_rows_are_not_compared(command: Command, tmp_path: Path) -> None:
    folders = [run_folder(tmp_path / name, 0.1, [{"prompt": name}] * 4) for name in ("a", "b")]
    assert command("report", *folders, "-o", tmp_path / "both.html")[0] == 0
    assert "evaluated on different rows" in (tmp_path / "both.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "`lmrl report` must have folders of runs, and maybe -o with a file, got none."),
        (("{}", "-o"), "`lmrl report` must have folders of runs, and maybe -o with a file, got {} -o."),
        (("{}", "-o", ""), "`lmrl report` must have folders of runs, and maybe -o with a file, got {} -o ''."),
        (("{}", "--smooth"), "`lmrl report` must have folders of runs, and maybe -o with a file, got --smooth."),
        (("{}",), "`lmrl report` must have folders of runs, got '{}', which has neither log.jsonl nor"),
        (("{}/no",), "`lmrl report` must have folders of runs, got '{}/no', which is no folder. Name the output_dir"),
    ],
)
def test_report_without_a_log_is_an_error_in_one_line(
    command: Command, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    status, out, err = command("report", *(word.format(tmp_path) for word in words))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: " + message.format(tmp_path))
