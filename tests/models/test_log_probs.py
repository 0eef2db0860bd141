"""Log-probabilities by chunks, forward and backward, against autograd through the full logits."""

import pytest
import torch

from lmrl.models.log_probs import LogitTransform, all_log_probs, token_log_probs


def _unchunked(hidden, weight, bias, targets, transform: LogitTransform):
    logits = (hidden @ weight.T + (0 if bias is None else bias)) * transform.scale
    if transform.softcap is not None:
        logits = transform.softcap * torch.tanh(logits / transform.softcap)
    log_softmax = (logits / transform.temperature).log_softmax(-1)
    log_probs = log_softmax.gather(1, targets.unsqueeze(1)).squeeze(1)
    return log_probs, -(log_softmax.exp() * log_softmax).sum(-1)


@pytest.mark.parametrize("chunk", [2**25, 60])  # all rows at once, and two at a time
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("with_entropy", [False, True])
@pytest.mark.parametrize(
    "transform",
    [LogitTransform(), LogitTransform(temperature=0.7), LogitTransform(scale=0.5, softcap=3.0, temperature=1.3)],
)
def test_values_and_gradients_are_those_of_the_unchunked(
    transform: LogitTransform, with_entropy: bool, with_bias: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmrl.models.log_probs._CHUNK_ELEMENTS", chunk)
    hidden, weight = torch.randn(9, 8, requires_grad=True), torch.randn(30, 8, requires_grad=True)
    bias = torch.randn(30, requires_grad=True) if with_bias else None
    targets, weights = torch.randint(0, 30, (9,)), torch.randn(2, 9)
    inputs = [tensor for tensor in (hidden, weight, bias) if tensor is not None]
    results = []
    for function in (token_log_probs, _unchunked):
        log_probs, entropy = function(hidden, weight, bias, targets, transform)
        loss = (log_probs * weights[0]).sum() + (entropy * weights[1]).sum() * with_entropy
        results.append((log_probs, entropy, *torch.autograd.grad(loss, inputs)))
    for result, expected in zip(*results, strict=True):
        assert torch.allclose(result, expected, atol=1e-5)


def test_a_frozen_head_leaves_the_gradient_of_the_states_as_it_is() -> None:
    targets = torch.randint(0, 30, (9,))
    inputs, frozen = torch.randn(9, 8), torch.randn(30, 8)
    gradients = []
    for weight in (frozen, frozen.clone().requires_grad_()):
        hidden = inputs.clone().requires_grad_()
        token_log_probs(hidden, weight, None, targets, LogitTransform())[0].sum().backward()
        gradients.append(hidden.grad)
    assert frozen.grad is None and torch.equal(*gradients)


def test_no_token_at_all_gives_a_graph_with_zero_gradients() -> None:
    hidden, weight = torch.randn(0, 8, requires_grad=True), torch.randn(30, 8, requires_grad=True)
    log_probs, _ = token_log_probs(hidden, weight, None, torch.zeros(0, dtype=torch.long), LogitTransform())
    log_probs.sum().backward()
    assert log_probs.shape == (0,) and weight.grad.abs().max() == 0


def test_under_autocast_the_projection_is_bfloat16_and_the_softmax_float32() -> None:
    hidden, weight = torch.randn(9, 64), torch.randn(30, 64, requires_grad=True)
    targets = torch.randint(0, 30, (9,))
    exact, _ = token_log_probs(hidden, weight, None, targets, LogitTransform())
    with torch.autocast("cpu", torch.bfloat16):
        rough, _ = token_log_probs(hidden, weight, None, targets, LogitTransform())
    assert rough.dtype == torch.float32
    assert 1e-6 < (rough - exact).abs().max() < 0.5
    rough.sum().backward()
    assert weight.grad.dtype == torch.float32


def test_in_bfloat16_many_chunks_lose_nothing_against_one(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, targets = torch.randn(512, 16, dtype=torch.bfloat16), torch.zeros(512, dtype=torch.long)
    errors = []
    for chunk in (2**25, 2 * 30):  # all rows at once, and 256 chunks
        monkeypatch.setattr("lmrl.models.log_probs._CHUNK_ELEMENTS", chunk)
        weight = torch.ones(30, 16, dtype=torch.bfloat16, requires_grad=True)
        token_log_probs(hidden, weight, None, targets, LogitTransform())[0].sum().backward()
        expected = hidden.double().sum(0) * (1 - 1 / 30)  # of the target's row, under a uniform softmax
        errors.append(((weight.grad[0].double() - expected).abs() / expected.abs().clamp(min=1)).max().item())
    assert max(errors) < 0.02, errors


def test_tokens_that_a_bias_suppresses_are_as_if_they_were_not_there() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(9, 8, requires_grad=True), torch.randn(30, 8, requires_grad=True)
    targets, bias = torch.randint(0, 20, (9,)), torch.zeros(30)
    bias[20:] = -torch.inf
    transform = LogitTransform(temperature=0.7)
    results = []
    for rows in (slice(None), slice(20)):
        log_probs, entropy = token_log_probs(hidden, weight[rows], bias[rows], targets, transform)
        gradients = torch.autograd.grad((log_probs - 0.3 * entropy).sum(), [hidden, weight])
        results.append((log_probs, entropy, *gradients))
    for result, expected in zip(*results, strict=True):
        assert torch.allclose(result, expected, atol=1e-5)


def test_the_kl_between_models_that_suppress_tokens_is_over_the_others() -> None:
    torch.manual_seed(0)
    hidden, weight, other = torch.randn(9, 8), torch.randn(30, 8), torch.randn(30, 8)
    bias = torch.zeros(30)
    bias[20:] = -torch.inf
    transform = LogitTransform()
    kl = all_log_probs(hidden, other, bias, transform, base=all_log_probs(hidden, weight, bias, transform))
    p, q = ((hidden @ rows[:20].T).log_softmax(-1) for rows in (weight, other))
    assert torch.allclose(kl, (p.exp() * (p - q)).sum(-1), atol=1e-5)
    one_sided = all_log_probs(hidden, other, bias, transform, base=all_log_probs(hidden, weight, None, transform))
    assert one_sided.isposinf().all()
