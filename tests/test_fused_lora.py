"""LoRA's layers as one function are those of PEFT, with less kept; other kinds run by PEFT's own forward."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners import lora
from tiny import tiny_gpt2, tiny_llama
from torch import Tensor, nn
from training import loss_of, make_trainer, one_rollout

from lmrl.fused_lora import fuse_adapters
from lmrl.models import disable_dropout, load_model

IDS = torch.tensor([[6, 7, 8, 9, 10], [11, 12, 13, 14, 15]])
ALL: dict[str, Any] = {"target_modules": "all-linear"}
RANKS = {"use_rslora": True, "rank_pattern": {"c_attn": 2, "q_proj": 2}, "alpha_pattern": {"c_proj": 3, "up_proj": 3}}
PLAIN = {
    "all layers": ALL,
    "ranks that differ": ALL | RANKS,
    "a head of its own": ALL | {"modules_to_save": ["lm_head"]},
}
OTHERS = {
    "DoRA": ALL | {"use_dora": True},
    "biases": ALL | {"lora_bias": True},
    "dropout": ALL | {"lora_dropout": 0.5},
    "an embedding": {"target_modules": ["wte", "embed_tokens"]},
}
MODELS = [tiny_gpt2, tiny_llama]


def adapted(make: Callable[..., str], folder: Path, **kind: Any) -> Any:
    """Returns a model in training mode with an adapter that is not zero."""
    torch.manual_seed(0)
    config = LoraConfig(**{"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM", "init_lora_weights": False, **kind})
    model = load_model(make(folder))
    disable_dropout(model)
    return get_peft_model(model, config).train()


def results(policy: Any, autocast: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns logits and the gradients of what is trained, from the same random numbers."""
    torch.manual_seed(0)
    policy.zero_grad()
    with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        logits = policy(IDS).logits.float()
    logits.log_softmax(-1)[:, :-1].gather(-1, IDS[:, 1:, None]).mean().backward()
    return logits.detach(), {name: w.grad.clone() for name, w in policy.named_parameters() if w.grad is not None}


def distance(found: Any, expected: Any) -> float:
    """Returns the largest relative distance of logits and gradients."""
    assert found[1].keys() == expected[1].keys()
    pairs = [(found[0], expected[0]), *((found[1][name], grad) for name, grad in expected[1].items())]
    return max(float((one - other).norm() / other.norm()) for one, other in pairs)


@contextmanager
def calls_of_peft() -> Iterator[list[str]]:
    """Yields the list of calls of PEFT's own forward."""
    calls: list[str] = []
    inner = lora.Linear.forward

    def forward(self: Any, *args: Any, **options: Any) -> Tensor:
        calls.append(type(self).__name__)
        return inner(self, *args, **options)

    lora.Linear.forward = forward
    try:
        yield calls
    finally:
        lora.Linear.forward = inner


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("make", MODELS)
def test_logits_and_gradients_are_those_of_peft(make: Callable[..., str], kind: str, tmp_path: Path) -> None:
    policy = adapted(make, tmp_path, **PLAIN[kind])
    expected = {autocast: results(policy, autocast) for autocast in (False, True)}
    fuse_adapters(policy)
    with calls_of_peft() as calls:
        found = {autocast: results(policy, autocast) for autocast in (False, True)}
    assert not calls
    assert distance(found[False], expected[False]) < 1e-5
    of_peft = distance(expected[True], expected[False])
    assert of_peft > 0.003 and distance(found[True], expected[False]) < 1.25 * of_peft  # of bfloat16


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("make", MODELS)
def test_other_kinds_are_left_to_peft(make: Callable[..., str], kind: str, tmp_path: Path) -> None:
    policy = adapted(make, tmp_path, **OTHERS[kind])
    expected = results(policy)
    fuse_adapters(policy)
    assert distance(results(policy), expected) == 0


def test_adapters_that_are_off_or_merged_or_two_are_left_to_peft(tmp_path: Path) -> None:
    policy = adapted(tiny_llama, tmp_path, **ALL)
    policy.add_adapter("other", LoraConfig(r=2, init_lora_weights=False, **ALL))

    def logits() -> list[Tensor]:
        found = []
        with torch.no_grad():
            policy.base_model.set_adapter(["default", "other"])
            found.append(policy(IDS).logits)
            policy.set_adapter("default")
            with policy.disable_adapter():
                found.append(policy(IDS).logits)
            policy.merge_adapter()
            found.append(policy(IDS).logits)
            policy.unmerge_adapter()
        return found

    before = logits()
    policy.set_adapter("other")
    of_other = results(policy)
    fuse_adapters(policy)
    for one, expected in zip(logits(), before, strict=True):
        assert torch.allclose(one, expected, atol=1e-5)
    policy.set_adapter("other")
    with calls_of_peft() as calls:
        assert distance(results(policy), of_other) < 1e-5
    assert not calls


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_whole_numbers_are_exact(precision: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(8, 6))
    policy: Any = get_peft_model(layer, LoraConfig(r=2, lora_alpha=4, target_modules=["0"]))
    with torch.no_grad():
        for weight in policy.parameters():
            weight.copy_(torch.randint(-1, 2, weight.shape))
    down, up = (policy.base_model.model[0].get_submodule(f"lora_{part}.default").weight for part in "AB")
    base = policy.base_model.model[0].base_layer
    inputs = torch.randint(-1, 2, (2, 3, 8)).float().requires_grad_()
    grad = torch.randint(-1, 2, (2, 3, 6)).float()
    fuse_adapters(policy)
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        output = policy(inputs)
    output.backward(grad.to(output.dtype))
    assert output.dtype == precision
    weight = base.weight + 2 * up @ down  # the scaling is alpha / rank = 2
    assert torch.equal(output.float(), inputs @ weight.T + base.bias)
    assert torch.equal(inputs.grad, grad @ weight)
    rows, states = grad.view(6, 6), inputs.view(6, 8)
    assert torch.equal(up.grad, 2 * rows.T @ (states @ down.T))
    assert torch.equal(down.grad, 2 * (rows @ up).T @ states)
    assert up.grad.dtype == down.grad.dtype == torch.float32 and base.weight.grad is None


def test_inputs_of_queries_keys_and_values_are_kept_once(tmp_path: Path) -> None:
    policy = adapted(tiny_llama, tmp_path, **ALL)
    policy.enable_input_require_grads()  # so that the first layer is like the others

    def kept() -> int:
        storages: dict[int, Tensor] = {}

        def keep(value: Tensor) -> Tensor:
            storages[value.untyped_storage().data_ptr()] = value
            return value

        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value)
        with hooks, torch.autocast("cpu", torch.bfloat16):
            output = policy(IDS.repeat(8, 8)).logits
        weights = {weight.untyped_storage().data_ptr() for weight in policy.parameters()}
        del output
        return sum(v.untyped_storage().nbytes() for pointer, v in storages.items() if pointer not in weights)

    of_peft = kept()
    fuse_adapters(policy)
    # In 2 layers, of 640 positions of 32 numbers: keys, values and the gate's other half read what is kept already,
    # and attention keeps its output, which the next layer reads.
    states = 2 * 4 * 640 * 32
    cast_weights = sum(layer.base_layer.weight.numel() for layer in policy.modules() if type(layer) is lora.Linear)
    assert kept() == of_peft - 2 * (states + cast_weights)  # bytes


def test_inputs_that_were_written_to_are_cast_again(tmp_path: Path) -> None:
    policy = adapted(tiny_llama, tmp_path, **ALL)
    fuse_adapters(policy)
    layer = policy.base_model.model.model.layers[0].self_attn.q_proj
    states = torch.zeros(1, 2, layer.in_features)
    with torch.autocast("cpu", torch.bfloat16):
        assert not layer(states).any()
        states += 1
        assert torch.equal(layer(states), layer(torch.ones_like(states)))


def test_checkpointed_layers_have_the_same_gradients(tmp_path: Path) -> None:
    policy = adapted(tiny_llama, tmp_path, **ALL)
    fuse_adapters(policy)
    expected = results(policy, autocast=True)
    policy.enable_input_require_grads()
    policy.gradient_checkpointing_enable({"use_reentrant": False})
    assert distance(results(policy, autocast=True), expected) == 0


def test_a_copy_of_the_model_has_weights_of_its_own(tmp_path: Path) -> None:
    policy = adapted(tiny_gpt2, tmp_path, **ALL)
    fuse_adapters(policy)
    expected = results(policy)
    policy.zero_grad()
    copied = copy.deepcopy(policy)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.zero_()
    assert distance(results(copied), expected) == 0


def test_decoding_is_left_to_peft(tmp_path: Path) -> None:
    policy = adapted(tiny_gpt2, tmp_path, **ALL)
    with torch.no_grad():
        expected = policy(IDS).logits
        fuse_adapters(policy)
        with calls_of_peft() as calls:
            assert torch.equal(policy(IDS).logits, expected)
    assert len(calls) == 8


@pytest.mark.parametrize("algorithm", ["reinforce", "ppo"])
def test_trainers_score_with_the_function_and_change_the_adapter_alone(algorithm: str, tmp_path: Path) -> None:
    config = LoraConfig(r=4, task_type="CAUSAL_LM", lora_dropout=0.1, **ALL)
    options: dict[str, Any] = {"peft_config": config, "bf16": True, "beta": 0.0, "num_iterations": 2}
    trainer = make_trainer(algorithm, tiny_llama(tmp_path / "model"), tmp_path / "out", **options)
    frozen = {name: weight.clone() for name, weight in trainer.model.named_parameters() if not weight.requires_grad}
    rollout = one_rollout(trainer)
    with calls_of_peft() as calls:
        loss_of(trainer, rollout).backward()
    assert not calls
    trainer.train()
    after = dict(trainer.model.named_parameters())
    assert all(torch.equal(after[name], value) and after[name].dtype == value.dtype for name, value in frozen.items())
    trained = {name: weight for name, weight in after.items() if "lora" in name}
    assert {weight.dtype for weight in trained.values()} == {torch.float32}
    assert all(bool(weight.any()) for weight in trained.values())  # the second ones began at zero
