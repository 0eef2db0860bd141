"""`--help` before the libraries are imported: what is saved of the recipes is what their classes give."""

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lmrl.cli import parse
from lmrl.cli.catalog import FILE, build, recipe_names, saved_help

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.py"))


def test_what_is_saved_of_the_recipes_is_what_their_classes_give() -> None:
    current = build(RECIPES)
    assert FILE.read_text() == current, "Write it anew: python -m lmrl.cli.catalog"
    assert recipe_names()["reinforce_gen"]["baseline"] == "Reinforce"


@pytest.mark.parametrize("scope", [["--help"], ["--help", "all"]])
def test_the_saved_help_is_the_one_of_the_parser(
    scope: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = ROOT / "recipes" / "ppo_gen.py"
    demo = ROOT / "recipes" / "configs" / "demo_ppo.yaml"
    classes = runpy.run_path(str(recipe))["ARGUMENTS"]
    monkeypatch.setattr("sys.argv", [str(recipe), *scope])
    with pytest.raises(SystemExit):
        parse(*classes, demo=demo)
    assert saved_help(recipe, scope) == capsys.readouterr().out


def test_a_recipe_that_was_changed_shows_its_own_help(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "recipes", tmp_path, dirs_exist_ok=True)
    recipe = tmp_path / "ppo_gen.py"
    assert saved_help(recipe, ["--help"]).startswith("usage: ppo_gen.py [--config FILE]")  # a copy as it was
    assert saved_help(recipe, ["--max_steps", "1"]) is None
    demo = tmp_path / "configs" / "demo_ppo.yaml"
    demo.write_text(demo.read_text().replace("max_steps: 60", "max_steps: 61"))
    assert saved_help(recipe, ["--help"]) is None
    shutil.copy(ROOT / "recipes" / "configs" / "demo_ppo.yaml", demo)
    assert saved_help(recipe, ["--help"]) is not None
    recipe.write_text(recipe.read_text() + "\n# changed\n")
    assert saved_help(recipe, ["--help"]) is None
    assert saved_help(tmp_path / "sweep.py", ["--recipe", "ppo_gen", "--", "--help"]) is None


def test_help_and_the_list_of_recipes_load_no_torch() -> None:
    for argv in ([str(ROOT / "recipes" / "ppo_gen.py"), "--help"], ["-m", "lmrl", "list"]):
        done = subprocess.run([sys.executable, "-X", "importtime", *argv], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0 and len(done.stdout.splitlines()) > 20, done.stderr
        imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
        assert "lmrl" in imported and not imported & {"torch", "transformers", "trl", "datasets", "numpy"}
