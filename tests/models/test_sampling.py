"""Decoding from cast weights leaves the model unchanged, bit by bit, also after an error."""

import ast
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import tiny_gpt2
from torch import nn
from training import make_trainer, one_rollout
from transformers import GenerationConfig

import lmrl
from lmrl.critics import attach_critic
from lmrl.models import add_scoring_forward, load_model
from lmrl.models.sampling import DecodingWeights, neutral_generation_config

IDS = torch.tensor([[6, 7, 8, 9]])


def policy(folder: str) -> nn.Module:
    """Returns a policy as trainers have it: with a critic and a forward of its own."""
    model = load_model(folder).eval()
    attach_critic(model)
    add_scoring_forward(model)
    return model


def decoding(model: nn.Module) -> AbstractContextManager[None]:
    """Returns a context in which the model decodes in bfloat16."""
    return DecodingWeights("bf16").replacing(model)


def snapshot(model: nn.Module) -> dict[str, tuple[int, int, torch.Tensor]]:
    """Returns identity, address and a copy of every parameter."""
    return {name: (id(p), p.data_ptr(), p.detach().clone()) for name, p in model.named_parameters()}


def check_unchanged(model: nn.Module, before: dict[str, tuple[int, int, torch.Tensor]]) -> None:
    after = snapshot(model)
    assert after.keys() == before.keys()
    for name, (identity, address, value) in before.items():
        assert after[name][:2] == (identity, address), name
        assert torch.equal(after[name][2], value) and after[name][2].dtype == value.dtype, name


@pytest.mark.parametrize("folder", ["gpt2_path", "llama_path"])
def test_inside_every_weight_of_the_policy_is_cast_and_afterwards_none(
    folder: str, request: pytest.FixtureRequest
) -> None:
    model = policy(request.getfixturevalue(folder))
    before, forward, logits = snapshot(model), model.forward, model(IDS).logits
    with decoding(model):
        dtypes = {name: p.dtype for name, p in model.named_parameters()}
        assert {dtype for name, dtype in dtypes.items() if name.startswith("critic.")} == {torch.float32}
        assert {dtype for name, dtype in dtypes.items() if not name.startswith("critic.")} == {torch.bfloat16}
        assert model.forward.__func__ is type(model).forward
        inside = model(IDS).logits
        assert inside.dtype == torch.bfloat16
        assert torch.allclose(inside.float(), logits, atol=0.2)
        assert model.generate(IDS, max_new_tokens=3, min_new_tokens=3, do_sample=False).shape == (1, 7)
    check_unchanged(model, before)
    assert model.forward is forward
    assert torch.equal(model(IDS).logits, logits)


def test_tied_weights_stay_tied(gpt2_path: str) -> None:
    model = policy(gpt2_path)
    for _ in range(2):
        with decoding(model):
            assert model.lm_head.weight is model.transformer.wte.weight
            assert model.lm_head.weight.data_ptr() == model.transformer.wte.weight.data_ptr()
        assert model.lm_head.weight is model.transformer.wte.weight
        assert model.lm_head.weight.data_ptr() == model.transformer.wte.weight.data_ptr()


def test_an_error_inside_leaves_the_model_as_it_was(gpt2_path: str) -> None:
    model = policy(gpt2_path)
    before, forward, own = snapshot(model), model.forward, model.generation_config
    with (
        pytest.raises(RuntimeError, match="out of memory"),
        decoding(model),
        neutral_generation_config(model),
    ):
        raise RuntimeError("out of memory")
    check_unchanged(model, before)
    assert model.forward is forward and model.generation_config is own


def test_a_model_with_the_forward_of_its_class_keeps_it(gpt2_path: str) -> None:
    model = load_model(gpt2_path)
    with decoding(model):
        assert "forward" in vars(model)
    assert "forward" not in vars(model)


def test_adapters_are_cast_too_and_their_base_with_them(gpt2_path: str) -> None:
    config = LoraConfig(r=4, target_modules=["c_attn"], init_lora_weights=False, fan_in_fan_out=True)
    model = get_peft_model(policy(gpt2_path), config).eval()
    before, logits = snapshot(model), model(IDS).logits
    with decoding(model.get_base_model()):
        adapters = [p for name, p in model.named_parameters() if "lora" in name]
        assert len(adapters) == 4 and {p.dtype for p in adapters} == {torch.bfloat16}
        assert torch.allclose(model(IDS).logits.float(), logits, atol=0.3)
    check_unchanged(model, before)
    assert torch.equal(model(IDS).logits, logits)


def test_gradients_and_optimisers_do_not_notice(gpt2_path: str) -> None:
    model = policy(gpt2_path)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(2):
        model(IDS, labels=IDS).loss.backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        with decoding(model), torch.no_grad():
            model(IDS)
        assert all(
            torch.equal(p.grad, g)
            for p, g in zip([p for p in model.parameters() if p.grad is not None], gradients, strict=True)
        )
        optimizer.step()
        optimizer.zero_grad()
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_what_hangs_on_the_gradient_of_a_weight_stays_there(gpt2_path: str) -> None:
    """DDP averages by a hook of the node that accumulates a gradient, and keeps that node."""
    model = policy(gpt2_path)
    weight = model.transformer.wpe.weight
    node = weight.view_as(weight).grad_fn.next_functions[0][0]
    seen = []
    node.register_hook(lambda *_: seen.append(1))
    for precision in ("bf16", "fp16"):
        with DecodingWeights(precision).replacing(model), torch.no_grad():
            model(IDS)
        model(IDS, labels=IDS).loss.backward()
    assert len(seen) == 2


def test_the_data_of_a_weight_is_replaced_only_before_an_engine_has_it() -> None:
    """In the trainer's constructor: of adapters, which TRL has rounded, and of a new critic. No other place may."""
    root = Path(lmrl.__file__).parent
    replaced = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign)
        for target in getattr(node, "targets", [getattr(node, "target", None)])
        if isinstance(target, ast.Attribute) and target.attr == "data"
    }
    assert replaced == {"models/adapters.py", "trainers/arguments.py", "trainers/engines.py"}


def test_each_rollout_has_the_weights_of_its_time_in_the_same_memory(gpt2_path: str) -> None:
    model = policy(gpt2_path)
    weights, addresses = DecodingWeights("bf16"), []
    for value in (0.5, -2.0):
        with torch.no_grad():
            model.transformer.wpe.weight.fill_(value)
        with weights.replacing(model):
            copy = model.transformer.wpe.weight
            assert copy.dtype == torch.bfloat16 and bool((copy == value).all())
            addresses.append(copy.data_ptr())
    assert addresses[0] == addresses[1]


def test_the_precision_is_that_of_autocast(llama_path: str) -> None:
    model = policy(llama_path)
    for precision, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16), ("no", torch.float32)):
        with DecodingWeights(precision).replacing(model):
            assert model.dtype == model.lm_head.weight.dtype == dtype


def test_weights_in_another_precision_are_left_alone(gpt2_path: str) -> None:
    model = load_model(gpt2_path, dtype="float16")
    before = snapshot(model)
    with decoding(model):
        check_unchanged(model, before)


def test_the_models_own_generation_defaults_are_put_aside_but_for_its_ends(gpt2_path: str) -> None:
    model = load_model(gpt2_path)
    own = GenerationConfig(eos_token_id=[1, 5], pad_token_id=0, no_repeat_ngram_size=1, suppress_tokens=[6], top_k=3)
    model.generation_config = own
    with neutral_generation_config(model):
        inside = model.generation_config
        assert (inside.eos_token_id, inside.pad_token_id) == ([1, 5], 0)
        assert not inside.no_repeat_ngram_size and not inside.suppress_tokens and inside.top_k != 3
    assert model.generation_config is own


@pytest.mark.parametrize("algorithm", ["reinforce", "ppo"])
def test_generation_defaults_of_a_checkpoint_do_not_leak_into_training(algorithm: str, tmp_path: Path) -> None:
    folder = tiny_gpt2(tmp_path / "model")
    plain = one_rollout(make_trainer(algorithm, folder, tmp_path / "out", max_completion_length=24))
    leaky = {"no_repeat_ngram_size": 1, "suppress_tokens": [6, 7, 8], "min_new_tokens": 20, "repetition_penalty": 3.0}
    GenerationConfig(eos_token_id=1, pad_token_id=0, do_sample=True, top_k=2, **leaky).save_pretrained(folder)
    torch.manual_seed(42)  # as TrainingArguments does: the same rollout is drawn again
    trainer = make_trainer(algorithm, folder, tmp_path / "out", max_completion_length=24)
    again = one_rollout(trainer)
    assert trainer.model.generation_config.no_repeat_ngram_size == 1
    assert torch.equal(again.completion_ids, plain.completion_ids)
