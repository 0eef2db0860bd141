"""What a GPU would do, without one: a CPU that checks devices as CUDA does, and two that communicate as by NCCL."""

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
def test_a_recipe_goes_on_from_its_checkpoint_under_fsdp2_on_two_gpus(tmp_path: Path) -> None:
    straight = tmp_path / "straight"
    again = tmp_path / "again"
    each_step = ("--save_strategy", "steps", "--save_steps", "1", "--eval_strategy", "steps", "--eval_steps", "1")
    check_recipe("fsdp2", straight, *each_step, PRETENDED_GPUS="2", **PRETENDED)
    resume = ("--resume_from_checkpoint", str(straight / "checkpoint-1"))
    check_recipe("fsdp2", again, *each_step, *resume, PRETENDED_GPUS="2", **PRETENDED)
    for name in ("model.safetensors", "critic/critic.safetensors"):
        expected = load_file(straight / name)
        found = load_file(again / name)
        assert expected.keys() == found.keys()
        assert [key for key, value in expected.items() if not torch.equal(found[key], value)] == []
