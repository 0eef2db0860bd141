"""DDP and DeepSpeed's ZeRO on two CPU processes give the results of one process, and save complete models."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import CONFIGS, RECIPES, finish, start
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lmrl.critics import CRITIC_FILE

HERE = Path(__file__).parent
IDS = torch.tensor([[10, 11]])

if importlib.util.find_spec("deepspeed") is None:
    pytest.skip("DeepSpeed is not installed: pip install deepspeed", allow_module_level=True)


def run(
    engine: str | None, algorithm: str, critics: str, kind: str, model: str, folder: Path, *precision: str
) -> dict[str, dict[str, Any]]:
    """Returns what engine_worker.py saw with each critic."""
    processes = "2" if engine else "1"
    rest = (model, str(folder), processes, *precision)
    finish(start(engine, HERE / "engine_worker.py", algorithm, critics, kind, *rest))
    return torch.load(f"{folder}.pt", weights_only=False)


def check_same(one: dict[str, Any], two: dict[str, Any]) -> None:
    """Advantages and figures to rounding; weights after two steps of at most 1e-3 each, to 2e-5."""
    assert torch.allclose(one["advantages"], two["advantages"], atol=1e-5)
    for log, other in zip(one["logs"], two["logs"], strict=True):
        assert log.keys() == other.keys()
        for name in log:
            value = log[name]
            assert float(other[name]) == pytest.approx(float(value), rel=1e-3, abs=1e-5), name
    assert one["parameters"].keys() == two["parameters"].keys()
    for name, parameter in one["parameters"].items():
        assert torch.allclose(two["parameters"][name], parameter, atol=2e-5), name
    assert torch.allclose(one["logits"], two["logits"], atol=1e-3)
    assert one.keys() == two.keys()
    if "moments" in one:  # of a critic that is fitted
        torch.testing.assert_close(two["moments"], one["moments"], rtol=1e-4, atol=1e-4)


def check_close(one: dict[str, Any], rounded: dict[str, Any]) -> None:
    """The same run in bfloat16: the norm of the gradients to its rounding, and a critic that has moved as far."""
    norms = [float(seen["logs"][0]["grad_norm"]) for seen in (one, rounded)]
    assert norms[1] == pytest.approx(norms[0], rel=0.02)
    if "moments" in one:
        moments = rounded["moments"]
        torch.testing.assert_close(moments, one["moments"], rtol=0.02, atol=0.02 * one["moments"].abs().max().item())
        return
    heads = [seen["parameters"]["critic.value.weight"].abs().max().item() for seen in (one, rounded)]
    assert heads[1] == pytest.approx(heads[0], rel=0.1)


def check_saved(folder: Path, seen: dict[str, Any], algorithm: str, kind: str) -> None:
    """Checks that the folder is a plain model or adapter with the trained outputs, and has a complete critic."""
    if kind in ("lora", "adapter"):
        model = AutoPeftModelForCausalLM.from_pretrained(folder)
    else:
        model, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not any(loading.values()), loading
    assert torch.allclose(model.eval()(IDS).logits, seen["logits"], atol=1e-5)
    if algorithm == "ppo" and "moments" not in seen:
        critic = load_file(folder / CRITIC_FILE)
        trained = {n.split("critic.")[1]: p for n, p in seen["parameters"].items() if "critic." in n}
        assert critic.keys() == {*trained, "start"}
        assert all(torch.equal(critic[name], parameter) for name, parameter in trained.items())
        assert critic["start"] == pytest.approx(0.6298, abs=1e-3)  # the mean reward


def adapter_on(model: str, folder: Path) -> str:
    """Saves an adapter that differs from its base, as supervised training leaves it; returns the folder."""
    options = {"target_modules": ["c_attn", "q_proj"], "task_type": "CAUSAL_LM", "init_lora_weights": False}
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), LoraConfig(r=4, **options)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return str(folder)


CASES = [
    pytest.param("zero3", "ppo", "separate least_squares", "full"),
    pytest.param("zero2", "ppo", "shared least_squares", "lora", marks=pytest.mark.slow),
    pytest.param("ddp", "ppo", "shared", "full", marks=pytest.mark.slow),
    pytest.param("zero2", "ppo", "shared", "full", marks=pytest.mark.slow),
    pytest.param("zero3", "ppo", "shared least_squares", "full", marks=pytest.mark.slow),
    pytest.param("zero3", "reinforce", "leave_one_out critic", "lora", marks=pytest.mark.slow),
    pytest.param("zero3", "ppo", "shared", "lora", marks=pytest.mark.slow),
    pytest.param("zero3", "ppo", "separate", "adapter", marks=pytest.mark.slow),
]
WRAPPER = {"ddp": "DistributedDataParallel", "zero2": "DeepSpeedEngine", "zero3": "DeepSpeedEngine"}


@pytest.mark.parametrize("engine, algorithm, critics, kind", CASES)
def test_two_processes_under_an_engine_equal_one(
    engine: str, algorithm: str, critics: str, kind: str, gpt2_path: str, llama_path: str, tmp_path: Path
) -> None:
    model = llama_path if "separate" in critics else gpt2_path  # head and embedding apart, or tied
    if kind == "adapter":  # which is trained further, and its reference is the adapter as it was
        model = adapter_on(model, tmp_path / "adapter")
    one = run(None, algorithm, critics, kind, model, tmp_path / "one")
    two = run(engine, algorithm, critics, kind, model, tmp_path / "two")
    for critic in critics.split():
        assert two[critic]["engine"] == WRAPPER[engine]
        check_same(one[critic], two[critic])
        check_saved(tmp_path / "two" / critic, two[critic], algorithm, kind)
    if (engine, kind) == ("zero3", "full") and "shared" in critics:
        rounded = run(engine, algorithm, critics, kind, model, tmp_path / "rounded", "bf16")
        for critic in critics.split():
            check_close(one[critic], rounded[critic])


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "zero2", "zero3"])
def test_a_recipe_runs_under_an_engine(engine: str, tmp_path: Path) -> None:
    few = ["--max_steps", "2", "--per_device_train_batch_size", "4", "--max_completion_length", "12"]
    held_out = ["--eval_rows", "5", "--eval_batch_size", "2", "--eval_strategy", "steps", "--eval_steps", "1"]
    rest = ["--report_to", "none", "--output_dir", str(tmp_path)]
    out = finish(start(engine, RECIPES / "ppo_gen.py", "--critic", "shared", *few, *held_out, *rest))
    assert out.count("after - before") == 1
    assert (tmp_path / "report.html").is_file() and (tmp_path / CRITIC_FILE).is_file()
    _, loading = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loading.values()), loading


@pytest.mark.slow
def test_a_run_under_zero3_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    few = ["--max_steps", "3", "--per_device_train_batch_size", "4", "--max_completion_length", "12"]
    few += ["--eval_rows", "4", "--report_to", "none", "--critic", "shared"]
    straight, again = tmp_path / "straight", tmp_path / "again"
    keep = ["--save_strategy", "steps", "--save_steps", "2"]
    finish(start("zero3", RECIPES / "ppo_gen.py", *few, *keep, "--output_dir", str(straight)))
    kept = str(straight / "checkpoint-2")
    finish(start("zero3", RECIPES / "ppo_gen.py", *few, "--resume_from_checkpoint", kept, "--output_dir", str(again)))
    for name in ("model.safetensors", CRITIC_FILE):
        expected, found, old = (load_file(folder / name) for folder in (straight, again, Path(kept)))
        assert expected.keys() == found.keys()
        assert all(torch.equal(found[key], value) for key, value in expected.items()), name
        assert any(not torch.equal(old[key], value) for key, value in expected.items()), name


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero2", "zero3"])
def test_accelerate_reads_every_configuration(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))  # refuses a key that it does not know
    assert (config.distributed_type.value, config.num_machines, config.mixed_precision) == (
        {"ddp": "MULTI_GPU", "fsdp2": "FSDP"}.get(name, "DEEPSPEED"),
        1,
        "no",
    )
    assert config.deepspeed_config.get("zero_stage") == {"zero2": 2, "zero3": 3}.get(name)
