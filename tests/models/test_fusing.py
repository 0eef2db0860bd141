"""The fused activation is the same function, and is not saved."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM
from transformers.activations import ACT2FN, NewGELUActivation

from lmrl.models import fuse_activations


def test_both_activations_agree_in_value_and_gradient() -> None:
    x = torch.linspace(-12, 12, 4801, dtype=torch.double, requires_grad=True)
    written, fused = NewGELUActivation()(x), ACT2FN["gelu_pytorch_tanh"](x)
    assert torch.allclose(written, fused, atol=1e-12)
    (a,), (b,) = torch.autograd.grad(written.sum(), x, retain_graph=True), torch.autograd.grad(fused.sum(), x)
    assert torch.allclose(a, b, atol=1e-12)


def test_gpt2_gets_the_fused_one_and_keeps_its_config(gpt2_path: str, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(gpt2_path)
    fuse_activations(model)
    assert not any(isinstance(module, NewGELUActivation) for module in model.modules())
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(again.transformer.h[0].mlp.act, NewGELUActivation)


def test_a_model_without_that_activation_is_left_alone(llama_path: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama_path)
    before = [type(module) for module in model.modules()]
    fuse_activations(model)
    assert [type(module) for module in model.modules()] == before
