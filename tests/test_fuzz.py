"""
Fuzzing: with any arguments and files a recipe runs, or ends with an error message and no traceback.

Every case is drawn from its number, so that a failure can be run again: `LMRL_FUZZ=1200:1300` runs these cases.
"""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import fuzzing
import pytest
from tiny import tiny_gpt2

Recipe = Callable[..., tuple[int, str, str]]

DRAWN = {
    "arguments": fuzzing.draw_arguments,
    "config": fuzzing.draw_config,
    "data": fuzzing.draw_data,
    "reward": fuzzing.draw_reward,
    "checkpoint": fuzzing.draw_checkpoint,
}


REWARDED = ["reinforce_gen", "ppo_gen", "evaluate_gen"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Returns the folder of a tiny model, beside which are an adapter on it and a checkpoint of its training."""
    folder = tmp_path_factory.mktemp("fuzz")
    path = tiny_gpt2(folder / "model")
    fuzzing.make_variants(path)
    return path


def cases(default: range) -> range:
    """Returns the numbers of the cases to run."""
    given = os.environ.get("LMRL_FUZZ")
    return range(*map(int, given.split(":"))) if given else default


def check(kind: str, numbers: range, recipe: Recipe, model: str, tmp_path: Path) -> dict[int, int]:
    """Runs cases, each in a folder of its own; returns how many ended with each status."""
    seen = {0: 0, 2: 0}
    for number in numbers:
        draw = random.Random(f"{kind} {number}")
        name = draw.choice(REWARDED if kind == "reward" else list(fuzzing.KINDS))
        folder = tmp_path / str(number)
        folder.mkdir()
        os.chdir(folder)
        fuzzing.write_rows(folder)
        argv = DRAWN[kind](name, model, folder, draw)
        case = f"case {number}: {name} {argv}"
        try:
            status, _, err = recipe(name, *argv)
        except BaseException as error:
            raise AssertionError(f"{case} raised {type(error).__name__}: {error}") from error
        last = err.strip().splitlines()[-1] if err.strip() else ""
        assert status in (0, 2), case
        assert status == 0 or (last.startswith("error: ") and len(last) > 12), (case, err[-500:])
        assert "Traceback" not in err and not (folder / "owned").exists(), case
        seen[status] += 1
        os.chdir(tmp_path)
        shutil.rmtree(folder)
    return seen


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "number"), [("arguments", 24), ("config", 12), ("data", 24), ("reward", 18), ("checkpoint", 12)]
)
def test_a_recipe_runs_or_refuses_in_a_sentence(
    kind: str, number: int, recipe: Recipe, model: str, tmp_path: Path
) -> None:
    seen = check(kind, cases(range(number)), recipe, model, tmp_path)
    assert seen[2] > 0, "nothing was refused: the cases are no longer strange"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", DRAWN)
def test_a_recipe_runs_or_refuses_in_a_sentence_at_length(
    kind: str, recipe: Recipe, model: str, tmp_path: Path
) -> None:
    assert min(check(kind, cases(range(1000, 1060)), recipe, model, tmp_path).values()) > 0
