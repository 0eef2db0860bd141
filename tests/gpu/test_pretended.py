"""What a GPU would do, without one: a CPU that checks devices as CUDA does, and two that communicate as by NCCL."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from gpu.launched import PRETENDED, check_cases, check_recipe
from gpu.pretended import reason_missing
from safetensors.torch import load_file

pytestmark = pytest.mark.skipif(bool(reason_missing()), reason=reason_missing())


@pytest.mark.parametrize("groups", ["training planted", "rewards evaluation resuming recipes counts"])
def test_nothing_is_on_the_wrong_device(groups: str, tmp_path: Path) -> None:
    check_cases(groups, tmp_path, "--pretend")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "zero3"])
def test_a_recipe_runs_under_an_engine_on_two_gpus(engine: str, tmp_path: Path) -> None:
    check_recipe(engine, tmp_path, PRETENDED_GPUS="2", DS_ACCELERATOR="cuda", **PRETENDED)


@pytest.mark.slow
@pytest.mark.parametrize(("critic", "steps"), [("shared", 2), ("least_squares", 3)])
def test_a_recipe_goes_on_from_its_checkpoint_under_fsdp2_on_two_gpus(critic: str, steps: int, tmp_path: Path) -> None:
    """Within a rollout, and with three steps into the next one, which the regression of the one before values."""
    straight = tmp_path / "straight"
    again = tmp_path / "again"
    run = partial(check_recipe, "fsdp2", critic=critic, steps=steps, PRETENDED_GPUS="2", **PRETENDED)
    each_step = ("--save_strategy", "steps", "--save_steps", "1", "--eval_strategy", "steps", "--eval_steps", "1")
    run(straight, *each_step)
    run(again, *each_step, "--resume_from_checkpoint", str(straight / "checkpoint-1"))
    for name in ("model.safetensors", *(["critic/critic.safetensors"] if critic == "shared" else [])):
        expected = load_file(straight / name)
        found = load_file(again / name)
        assert expected.keys() == found.keys()
        assert [key for key, value in expected.items() if not torch.equal(found[key], value)] == []
    paths = [folder / f"checkpoint-{steps}" / "lmrl_state.json" for folder in (straight, again)]
    fitted = [json.loads(path.read_text(encoding="utf-8")).get("critic") for path in paths]
    assert fitted[0] == fitted[1]
    assert (fitted[0] is not None) == (critic == "least_squares")
