"""The KL estimators against the exact KL of small distributions, and the controller by hand."""

import math

import pytest
import torch

from lmrl import core

P = torch.tensor([0.5, 0.3, 0.2], dtype=torch.double)
Q = torch.tensor([0.2, 0.2, 0.6], dtype=torch.double)
KL = 0.5 * math.log(2.5) + 0.3 * math.log(1.5) + 0.2 * math.log(1 / 3)


def test_k1_and_k3_are_unbiased() -> None:
    assert (P * core.k1(P.log(), Q.log())).sum().item() == pytest.approx(KL, abs=1e-12)
    assert (P * core.k3(P.log(), Q.log())).sum().item() == pytest.approx(KL, abs=1e-12)


def test_k3_is_never_negative_and_both_are_zero_for_equal_policies() -> None:
    assert (core.k3(P.log(), Q.log()) > 0).all()
    for estimator in (core.k1, core.k3):
        assert estimator(P.log(), P.log()).abs().max() == 0


def test_k1_in_the_reward_gives_the_gradient_of_the_kl() -> None:
    # exact gradient of KL(p_theta || q) against sum_a p_a * grad log p_a * k1_a
    theta = torch.tensor([0.1, -0.4, 0.3], dtype=torch.double, requires_grad=True)
    log_policy = theta.log_softmax(0)
    (exact,) = torch.autograd.grad((log_policy.exp() * (log_policy - Q.log())).sum(), theta, retain_graph=True)
    weights = (log_policy.exp() * core.k1(log_policy, Q.log())).detach()
    (estimated,) = torch.autograd.grad((weights * log_policy).sum(), theta)
    assert torch.allclose(exact, estimated, atol=1e-12)


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (6.0, 0.15),
        (6.6, 0.15 * (1 + 0.1 * 0.0256)),
        (60.0, 0.15 * (1 + 0.2 * 0.0256)),
        (0.0, 0.15 * (1 - 0.2 * 0.0256)),
    ],
)
def test_the_adaptive_coefficient_by_hand(kl: float, expected: float) -> None:
    # Ziegler et al.: target 6 nats, horizon 10,000, 256 completions
    assert core.adaptive_coefficient(0.15, kl, 6.0, 10_000, 256) == pytest.approx(expected, abs=1e-12)
