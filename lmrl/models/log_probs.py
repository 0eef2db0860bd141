"""Log-probabilities and entropies of given tokens, computed from hidden states by chunks of logits."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

_LEAST = -1e30  # in place of -inf where a probability of 0 multiplies a log-probability
# Logits in memory at a time, in float32: 128 MiB, and on a GPU, where each chunk reads all of the weight, 512 MiB.
_CHUNK_ELEMENTS = 2**25
_CHUNK_ELEMENTS_ON_GPU = 2**27


@dataclass(frozen=True)
class LogitTransform:
    """Operations between `hidden @ weight.T` and the softmax."""

    scale: float = 1.0  # of the architecture (Cohere, Granite ...)
    softcap: float | None = None  # bound of `softcap * tanh(logits / softcap)` (Gemma 2)
    temperature: float = 1.0  # of sampling; the logits are divided by it

    def apply(self, raw: Tensor) -> Tensor:
        """Returns the float32 logits that are sampled from, in the shape and possibly the memory of the raw ones."""
        logits = raw.float()
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits * (self.scale / self.softcap))
        factor = (self.scale if self.softcap is None else 1.0) / self.temperature
        return logits if factor == 1 else logits.mul_(factor)

    def backward(self, grad: Tensor, logits: Tensor) -> Tensor:
        """Returns the gradient for the raw logits, given that for the logits, which is overwritten, and the logits."""
        factor = self.scale / self.temperature
        grad = grad if factor == 1 else grad.mul_(factor)
        if self.softcap is None:
            return grad
        return grad * (1 - (logits * self.temperature / self.softcap).square())


class _TokenLogProbs(torch.autograd.Function):
    """Computes the logits of a chunk, uses them in place and drops them; the backward pass computes them again."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        transform: LogitTransform,
        with_top1: bool,
    ) -> tuple[Tensor, ...]:
        """Returns log-probabilities, entropies and, with `with_top1`, whether no token is likelier, (N,) each."""
        log_probs = []
        entropies = []
        normalizers = []
        largest = []
        for rows in _chunks(hidden, weight):
            logits = transform.apply(linear(hidden[rows], weight, bias))
            normalizer = logits.logsumexp(-1, keepdim=True)
            log_probs.append((logits.gather(1, targets[rows].unsqueeze(1)) - normalizer).squeeze(1))
            logits -= normalizer
            if bias is not None:  # it may be -inf, for tokens that are suppressed
                logits.clamp_(min=_LEAST)
            if with_top1:
                largest.append(logits.amax(-1))
            entropies.append(-torch.linalg.vecdot(logits.exp(), logits))
            normalizers.append(normalizer)
        entropy = torch.cat(entropies)
        ctx.save_for_backward(hidden, weight, bias, targets, entropy, torch.cat(normalizers))
        ctx.transform = transform
        outputs = (torch.cat(log_probs), entropy)
        if not with_top1:
            return outputs
        is_top1 = outputs[0] >= torch.cat(largest)
        ctx.mark_non_differentiable(is_top1)
        return *outputs, is_top1

    @staticmethod
    def backward(ctx: Any, grad_log_probs: Tensor, grad_entropy: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        """Returns the gradients at hidden states, weight and bias."""
        hidden, weight, bias, targets, entropy, normalizers = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_weight: Any = None
        grad_bias = None if bias is None else torch.zeros_like(bias)
        has_entropy = bool(grad_entropy.any())  # read once: the CPU waits for a GPU here
        for rows in _chunks(hidden, weight):
            logits = ctx.transform.apply(linear(hidden[rows], weight, bias))
            grad_of_rows = grad_entropy[rows] if has_entropy else None
            grad = _logit_gradient(
                logits, normalizers[rows], targets[rows], grad_log_probs[rows], grad_of_rows, entropy[rows]
            )
            grad = ctx.transform.backward(grad, logits).to(weight.dtype)
            grad_hidden[rows] = grad @ weight
            if ctx.needs_input_grad[1]:  # not with LoRA
                part = grad.T @ hidden[rows]
                # Summed in float32, as bfloat16 would lose small parts.
                grad_weight = part if grad_weight is None else grad_weight.float().add_(part)
            if grad_bias is not None:
                grad_bias += grad.sum(0)
        grad_weight = None if grad_weight is None else grad_weight.to(weight.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None


def _logit_gradient(
    logits: Tensor,
    normalizer: Tensor,
    target: Tensor,
    grad_log_prob: Tensor,
    grad_entropy: Tensor | None,
    entropy: Tensor,
) -> Tensor:
    """d log p_y / d z_v = [v = y] - p_v, and d H / d z_v = -p_v (log p_v + H)."""
    log_softmax = logits - normalizer
    if grad_entropy is None:
        grad = log_softmax.exp_().mul_(-grad_log_prob.unsqueeze(1))
    else:
        factor = (
            (log_softmax.clamp_(min=_LEAST) + entropy.unsqueeze(1))
            .mul_(grad_entropy.unsqueeze(1))
            .add_(grad_log_prob.unsqueeze(1))
        )
        grad = log_softmax.exp_().mul_(factor).neg_()
    return grad.scatter_add_(1, target.unsqueeze(1), grad_log_prob.unsqueeze(1))


def _chunks(hidden: Tensor, weight: Tensor) -> Iterator[slice]:
    elements = _CHUNK_ELEMENTS_ON_GPU if weight.is_cuda else _CHUNK_ELEMENTS
    rows = max(elements // weight.shape[0], 1)
    return (slice(start, start + rows) for start in range(0, max(len(hidden), 1), rows))


@torch.no_grad()
def all_log_probs(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, transform: LogitTransform, base: Tensor | None = None
) -> Tensor:
    """
    Returns the log-probabilities of all tokens after each hidden state (N, D): (N, V), float32. With another model's
    as `base`, (N, V), returns KL(base || this model) after each state, (N,), with one chunk of logits in memory.
    """
    hidden, weight, bias = _in_autocast(hidden, weight, bias)
    found = []
    with torch.autocast(hidden.device.type, enabled=False):
        for rows in _chunks(hidden, weight):
            log_probs = transform.apply(linear(hidden[rows].to(weight.dtype), weight, bias)).log_softmax(-1)
            if base is not None:  # this model may have rows past the tokens of the other
                probs = base[rows].exp()
                differences = (base[rows] - log_probs[:, : base.shape[1]]).masked_fill_(probs == 0, 0.0)
                log_probs = torch.linalg.vecdot(probs, differences)
            found.append(log_probs)
    return torch.cat(found)


def _in_autocast(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Returns hidden states, weight and bias of a projection in the precision of autocast, if that is on."""
    device = hidden.device.type
    if not torch.is_autocast_enabled(device):
        return hidden, weight, bias
    dtype = torch.get_autocast_dtype(device)
    return hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def token_log_probs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    transform: LogitTransform,
    with_top1: bool = False,
) -> tuple[Tensor, ...]:
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
            Operations between the projection and the softmax, the temperature included.
        with_top1 (`bool`, *optional*, defaults to `False`):
            Whether to return as well which targets are the most likely tokens, or one of several such.

    Returns:
        `tuple` of `torch.Tensor` of shape `(N,)`: log-probabilities (<= 0) and entropies (>= 0), float32; with
        `with_top1` also booleans.
    """
    hidden, weight, bias = _in_autocast(hidden, weight, bias)
    with torch.autocast(hidden.device.type, enabled=False):
        return _TokenLogProbs.apply(hidden.to(weight.dtype), weight, bias, targets, transform, with_top1)
