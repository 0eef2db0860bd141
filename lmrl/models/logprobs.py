"""Log-probabilities and entropies of given tokens straight from hidden states, a chunk of logits at a time."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_CHUNK_ELEMENTS = 2**24  # logits alive at a time: 64 MiB in float32


@dataclass(frozen=True)
class LogitTransform:
    """
    What stands between `hidden @ weight.T` and the softmax.

    Args:
        scale (`float`, *optional*, defaults to `1.0`):
            Factor of the architecture (Cohere, Granite ...).
        softcap (`float`, *optional*):
            Bound of `softcap * tanh(logits / softcap)` (Gemma 2).
        temperature (`float`, *optional*, defaults to `1.0`):
            Temperature of sampling; the logits are divided by it.
    """

    scale: float = 1.0
    softcap: float | None = None
    temperature: float = 1.0

    def apply(self, raw: Tensor) -> Tensor:
        """Returns the float32 logits that are sampled from, of the same shape as the raw ones."""
        logits = raw.float() * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits / self.temperature

    def backward(self, grad: Tensor, logits: Tensor) -> Tensor:
        """Returns the gradient at the raw logits, given that at the logits and the logits themselves."""
        grad = grad * (self.scale / self.temperature)
        if self.softcap is None:
            return grad
        return grad * (1 - (logits * self.temperature / self.softcap).square())


class _TokenLogProbs(torch.autograd.Function):
    """The logits of a chunk are made, used and dropped; the backward pass makes them again."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        transform: LogitTransform,
    ) -> tuple[Tensor, Tensor]:
        """Returns log-probabilities and entropies, (N,) each."""
        logps, entropies = [], []
        for h, target in _chunks(hidden, targets, weight.shape[0]):
            log_softmax = transform.apply(torch.nn.functional.linear(h, weight, bias)).log_softmax(-1)
            logps.append(log_softmax.gather(1, target.unsqueeze(1)).squeeze(1))
            entropies.append(-(log_softmax.exp() * log_softmax).sum(-1))
        entropy = torch.cat(entropies)
        ctx.save_for_backward(hidden, weight, bias, targets, entropy)
        ctx.transform = transform
        return torch.cat(logps), entropy

    @staticmethod
    def backward(ctx: Any, grad_logps: Tensor, grad_entropy: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients at hidden states, weight and bias."""
        hidden, weight, bias, targets, entropy = ctx.saved_tensors
        grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(weight, dtype=torch.float32)
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        start = 0
        for h, target in _chunks(hidden, targets, weight.shape[0]):
            rows = slice(start, start := start + h.shape[0])
            logits = ctx.transform.apply(torch.nn.functional.linear(h, weight, bias))
            grad = _logit_gradient(logits, target, grad_logps[rows], grad_entropy[rows], entropy[rows])
            grad = ctx.transform.backward(grad, logits).to(weight.dtype)
            grad_hidden[rows] = grad @ weight
            grad_weight += grad.T @ h
            if grad_bias is not None:
                grad_bias += grad.sum(0, dtype=torch.float32)
        return grad_hidden, grad_weight.to(weight.dtype), grad_bias, None, None


def _logit_gradient(logits: Tensor, target: Tensor, g_logp: Tensor, g_entropy: Tensor, entropy: Tensor) -> Tensor:
    """d logp_y / d z_v = [v = y] - p_v, and d H / d z_v = -p_v (log p_v + H)."""
    log_softmax = logits.log_softmax(-1)
    probs = log_softmax.exp()
    grad = probs * -g_logp.unsqueeze(1)
    if g_entropy.any():
        grad -= g_entropy.unsqueeze(1) * probs * (log_softmax + entropy.unsqueeze(1))
    return grad.scatter_add_(1, target.unsqueeze(1), g_logp.unsqueeze(1))


def _chunks(hidden: Tensor, targets: Tensor, vocab_size: int) -> list[tuple[Tensor, Tensor]]:
    rows = max(_CHUNK_ELEMENTS // vocab_size, 1)
    return list(zip(hidden.split(rows), targets.split(rows), strict=True))


def token_logps(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, transform: LogitTransform
) -> tuple[Tensor, Tensor]:
    """
    Returns the log-probability of each target token and the entropy of the distribution it comes from.

    Never more than a chunk of the (N, V) logits is in memory, in the backward pass too. The projection runs in the
    precision of autocast where it is on; softmax and entropy in float32.

    Args:
        hidden (`torch.Tensor` of shape `(N, D)`):
            Last hidden states, of the position *before* each target.
        weight (`torch.Tensor` of shape `(V, D)`):
            Weight of the LM head.
        bias (`torch.Tensor` of shape `(V,)`, *optional*):
            Bias of the LM head.
        targets (`torch.Tensor` of shape `(N,)`):
            Token ids.
        transform ([`LogitTransform`]):
            What stands between the projection and the softmax, the temperature included.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: log-probabilities (<= 0) and entropies (>= 0), each `(N,)`, float32.
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    with torch.autocast(device, enabled=False):
        return _TokenLogProbs.apply(hidden.to(weight.dtype), weight, bias, targets, transform)
