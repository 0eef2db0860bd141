"""On a real GPU. CONTRIBUTING.md has the command; no other run has these."""

import importlib.util
from pathlib import Path

import pytest
from gpu.launched import REAL, check_cases, check_recipe, count_real_gpus
from launching import ANY_PORT

pytestmark = pytest.mark.gpu

GROUPS = ("planted counts", "training", "rewards", "evaluation recipes", "resuming", "attention graphs")
FLASH_PACKAGES = ("flash_attn", "flash_attn_interface")


@pytest.fixture(scope="module")
def gpus() -> int:
    """Returns the number of GPUs; skips the test without one."""
    count = count_real_gpus()
    if count == 0:
        pytest.skip("torch.cuda sees no GPU here")
    return count


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize("groups", GROUPS)
def test_nothing_is_on_the_wrong_device(groups: str, tmp_path: Path) -> None:
    check_cases(groups, tmp_path, **REAL)


@pytest.mark.usefixtures("gpus")
def test_sequences_behind_each_other_run_with_flash_attention(tmp_path: Path) -> None:
    if not any(importlib.util.find_spec(name) for name in FLASH_PACKAGES):
        pytest.skip("flash attention is not installed: pip install flash-attn")
    check_cases("flash", tmp_path, **REAL)


@pytest.mark.parametrize("engine", ["ddp", "fsdp2", "zero2", "zero3"])
def test_a_recipe_runs_under_an_engine(engine: str, gpus: int, tmp_path: Path) -> None:
    if engine == "ddp" and gpus == 1:
        pytest.skip("DDP needs two GPUs, got 1")
    check_recipe(engine, tmp_path, options=(*ANY_PORT, "--num_processes", str(min(gpus, 2))), **REAL)


@pytest.mark.usefixtures("gpus")
def test_a_recipe_samples_with_vllm(tmp_path: Path) -> None:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed: pip install '.[vllm]'")
    check_recipe(None, tmp_path, "--use_vllm", "true", **REAL)


@pytest.mark.usefixtures("gpus")
def test_a_recipe_trains_on_a_base_in_4_bits(tmp_path: Path) -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed: pip install '.[quantization]'")
    check_recipe(None, tmp_path, "--load_in_4bit", "--use_peft", **REAL)
