"""The policy's forward: log-probabilities, entropies and values of the completion's positions, in one pass."""

import functools
import inspect
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from trl.trainer.utils import FusedCausalLMOutput

from .log_probs import LogitTransform, token_log_probs


@dataclass
class ScoredCompletions(FusedCausalLMOutput):
    """
    What the policy's forward says of the completions. Everything is 0 where the mask is 0.

    Args:
        log_probs (`torch.Tensor` of shape `(B, T)`):
            Log-probability of each completion token.
        entropy (`torch.Tensor` of shape `(B, T)`):
            Entropy, in nats, of the distribution each token was drawn from.
        state_values (`torch.Tensor` of shape `(B, T)`, *optional*):
            Value of the state before each token, if the model has a critic and it was asked for. (An output is a
            mapping, and DDP calls its `values()`.)
    """

    state_values: Any = None


def add_scoring_forward(model: PreTrainedModel, temperature: float = 1.0) -> None:
    """
    Teach the model's forward to score completions: `model(input_ids=..., attention_mask=..., completion_length=T)`.

    Called so, it returns [`ScoredCompletions`] of the last T tokens: positions are derived from the attention mask, so
    that padding changes nothing for models with learned positions; only the completion's real tokens meet the LM
    head; the critic, if the model has one, reads the same pass (`with_values=True`). Called otherwise, the forward is
    what it was, so generation is unchanged. It lives *inside* the module, where DDP, FSDP and ZeRO have the weights.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Causal language model, not wrapped by PEFT (give its base model).
        temperature (`float`, *optional*, defaults to `1.0`):
            Temperature of sampling, > 0.
    """
    transform = _logit_transform(model, temperature)
    inner = model.forward
    for module in model.get_output_embeddings().modules():  # more than one where PEFT trains a copy of the head
        if "weight" in dict(module.named_parameters(recurse=False)):
            _add_scoring_head(module)

    @functools.wraps(type(model).forward)  # `generate` reads the signature
    def forward(self: PreTrainedModel, *args: Any, completion_length: int | None = None, **kwargs: Any) -> Any:
        """Score the completions if their length is given, else do what the model does."""
        if completion_length is None:
            return inner(*args, **kwargs)
        return _score(self, transform, completion_length, **kwargs)

    model.forward = types.MethodType(forward, model)


def _add_scoring_head(head: nn.Module) -> None:
    """Teach the LM head's forward to score targets: ZeRO-3 and FSDP have its weight while that runs, and only then."""
    inner = head.forward

    def forward(
        self: Any, hidden: Tensor, targets: Tensor | None = None, transform: LogitTransform | None = None
    ) -> Any:
        """Score the targets if they are given, else make logits."""
        if targets is None or transform is None:
            return inner(hidden)
        return token_log_probs(hidden, self.weight, self.bias, targets, transform)

    head.forward = types.MethodType(forward, head)


def _score(
    model: PreTrainedModel,
    transform: LogitTransform,
    completion_length: int,
    input_ids: Tensor,
    attention_mask: Tensor,
    with_values: bool = False,
    **_: Any,
) -> ScoredCompletions:
    position_ids = (attention_mask.long().cumsum(1) - 1).clamp(min=0)
    states = _run_backbone(model.base_model, input_ids, attention_mask, position_ids)[:, -completion_length - 1 : -1]
    mask = attention_mask[:, -completion_length:].bool()
    targets = input_ids[:, -completion_length:][mask]
    logps, entropies = model.get_output_embeddings()(states[mask], targets=targets, transform=transform)
    values = None
    if with_values:

        def read(backbone: nn.Module | None) -> Tensor:
            """Returns the hidden states of a backbone, or of the policy's."""
            return _run_backbone(backbone or model.base_model, input_ids, attention_mask, position_ids)

        values = model.critic(states, read).masked_fill(~mask, 0.0)
    return ScoredCompletions(log_probs=_spread(logps, mask), entropy=_spread(entropies, mask), state_values=values)


def _run_backbone(backbone: nn.Module, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
    inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    if "position_ids" in _parameters(type(backbone).forward):
        inputs["position_ids"] = positions
    return backbone(**inputs).last_hidden_state


@functools.cache
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def _spread(values: Tensor, mask: Tensor) -> Tensor:
    """(N,) -> (B, T). `masked_scatter` keeps the graph also where a micro-batch has no token at all."""
    return values.new_zeros(mask.shape).masked_scatter(mask, values)


def _logit_transform(model: PreTrainedModel, temperature: float) -> LogitTransform:
    """Read from the config what the architecture does to its logits."""
    config = model.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or getattr(config, "lm_head_multiplier", None)
    if getattr(config, "logits_scaling", None):
        scale = 1 / config.logits_scaling
    softcap = getattr(config, "final_logit_softcapping", None)
    return LogitTransform(scale=scale or 1.0, softcap=softcap, temperature=temperature)


@torch.no_grad()
def check_scoring_forward(model: PreTrainedModel, temperature: float) -> None:
    """
    Check on two tokens that the scoring forward and the model's own logits give the same log-probability.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Model given to [`add_scoring_forward`].
        temperature (`float`):
            The temperature given there.

    Raises:
        ValueError: If they differ, as they would for an architecture that changes its logits in a way not known here.
    """
    training = model.training
    model.eval()
    token = model.config.get_text_config().eos_token_id
    token = token[0] if isinstance(token, list) else token or 0
    ids = torch.full((1, 2), token, device=model.device)
    ours = model(input_ids=ids, attention_mask=torch.ones_like(ids), completion_length=1).log_probs[0, 0]
    own = (model(input_ids=ids).logits[0, 0].float() / temperature).log_softmax(-1)[token]
    model.train(training)
    if not torch.isclose(ours, own, atol=5e-2, rtol=1e-2):
        raise ValueError(
            f"{type(model).__name__} gives its token {token} the log-probability {own:.4f}, and lmrl computes "
            f"{ours:.4f}: the architecture does something to its logits that lmrl does not know. Use another "
            "architecture, or report this one."
        )
