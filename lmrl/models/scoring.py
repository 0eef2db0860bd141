"""The policy's scoring pass: log-probabilities, entropies and values of the completion's positions, in one forward."""

import functools
import types
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from trl.trainer.utils import FusedCausalLMOutput

from lmrl.packing import attention_of
from lmrl.precision import check_attention

from .adapters import backbone_of
from .log_probs import LogitTransform, all_log_probs, token_log_probs
from .shared_prompts import TOLERANCE, TOLERANCE_IN_16_BITS, StatesBefore, share_prompts


@dataclass
class ScoredCompletions(FusedCausalLMOutput):
    """
    Output of the policy's scoring pass. Everything is 0 where the mask is 0.

    Args:
        log_probs (`torch.Tensor` of shape `(B, T)`):
            Log-probability of each completion token.
        entropy (`torch.Tensor` of shape `(B, T)`):
            Entropy, in nats, of the distribution each token was drawn from.
        state_values (`torch.Tensor` of shape `(B, T)`, *optional*):
            Value of the state before each token, with `with_values=True`. (Not `values`: an output is a mapping, and
            DDP calls its `values()`.)
        all_log_probs (`torch.Tensor` of shape `(N, V)`, *optional*):
            Log-probabilities of all tokens at the N positions where the mask is 1, with `with_all=True`.
        kl (`torch.Tensor` of shape `(B, T)`, *optional*):
            KL in nats, over the vocabulary, of another model's `all_log_probs` (`kl_from`) to this one's.
    """

    state_values: Any = None
    all_log_probs: Any = None
    kl: Any = None


def add_scoring_forward(model: PreTrainedModel, temperature: float = 1.0) -> None:
    """
    Patches the model's forward to score completions: `model(input_ids=..., attention_mask=..., completion_length=T)`.

    With `completion_length` it returns [`ScoredCompletions`] of the last T tokens. Positions are computed from the
    attention mask, so that padding changes nothing for models with learned positions; the LM head is applied to the
    completion's tokens only, without padding; the critic uses the hidden states of the same pass
    (`with_values=True`). Without `completion_length` the forward is the model's own, so generation is unchanged. All
    of it runs *inside* the module's forward, where DDP, FSDP and ZeRO have gathered the weights.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Causal language model, not wrapped by PEFT (pass its base model).
        temperature (`float`, *optional*, defaults to `1.0`):
            Temperature of sampling, > 0.
    """
    transform = logit_transform(model, temperature)
    inner = model.forward
    add_scoring_heads(model)

    @functools.wraps(type(model).forward)  # `generate` reads the signature
    def forward(self: PreTrainedModel, *args: Any, completion_length: int | None = None, **kwargs: Any) -> Any:
        """Scores the completions if their length is given, else runs the model's own forward."""
        if completion_length is None:
            return inner(*args, **kwargs)
        return _score(self, transform, completion_length, **kwargs)

    model.forward = types.MethodType(forward, model)


def add_scoring_heads(model: PreTrainedModel) -> None:
    """Patches the LM head's forward to score targets, as ZeRO-3 and FSDP gather its weight only while that runs."""
    for module in model.get_output_embeddings().modules():  # more than one where PEFT trains a copy of the head
        trains_tokens = hasattr(module, "token_adapter")  # of the head, by PEFT's `trainable_token_indices`
        if trains_tokens or "weight" in dict(module.named_parameters(recurse=False)):
            _add_scoring_head(module)


def _add_scoring_head(head: nn.Module) -> None:
    inner = head.forward

    def forward(
        self: Any,
        hidden: Tensor,
        targets: Tensor | None = None,
        transform: LogitTransform | None = None,
        with_top1: bool = False,
        kl_from: Tensor | None = None,
    ) -> Any:
        """Scores the targets if they are given, or all tokens with a transform alone, else returns logits."""
        if transform is None:
            return inner(hidden)
        if targets is None:
            return all_log_probs(hidden, self.weight, getattr(self, "bias", None), transform, kl_from)
        return token_log_probs(hidden, self.weight, getattr(self, "bias", None), targets, transform, with_top1)

    head.forward = types.MethodType(forward, head)


def _score(
    model: PreTrainedModel,
    transform: LogitTransform,
    completion_length: int,
    input_ids: Tensor,
    attention_mask: Tensor,
    with_values: bool = False,
    with_all: bool = False,
    kl_from: Tensor | None = None,
    **others: Any,
) -> ScoredCompletions:
    # PEFT passes all arguments of the model's own forward, as None where they were not given.
    if unknown := [name for name, value in others.items() if value is not None]:
        raise TypeError(f"`{unknown[0]}` must not be passed together with `completion_length`.")
    read = StatesBefore(input_ids, attention_mask, completion_length)
    states = read(backbone_of(model))
    mask = attention_mask[:, -completion_length:].bool()
    targets = input_ids[:, -completion_length:][mask]
    head = model.get_output_embeddings()
    log_probs, entropies = head(states, targets=targets, transform=transform)
    kl = None if kl_from is None else head(states, transform=transform, kl_from=kl_from)
    values = None
    if with_values:
        values = model.critic(states, lambda backbone: read(backbone or backbone_of(model)))
    return ScoredCompletions(
        log_probs=scatter_to_padded(log_probs, mask),
        entropy=scatter_to_padded(entropies, mask),
        state_values=None if values is None else scatter_to_padded(values, mask),
        all_log_probs=head(states, transform=transform) if with_all else None,
        kl=None if kl is None else scatter_to_padded(kl, mask),
    )


def scatter_to_padded(values: Tensor, mask: Tensor) -> Tensor:
    """Returns (N,) as (B, T), (N, D) as (B, T, D). `masked_scatter` keeps the graph even of a batch without tokens."""
    padded = values.new_zeros(mask.shape + values.shape[1:])
    return padded.masked_scatter(mask.view(mask.shape + (1,) * (values.dim() - 1)), values)


def logit_transform(model: PreTrainedModel, temperature: float) -> LogitTransform:
    """Returns the operations that the architecture applies to its logits, as named in the config."""
    config = model.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or getattr(config, "lm_head_multiplier", None)
    if getattr(config, "logits_scaling", None):  # by which HyperCLOVA X multiplies, and Granite divides
        scale = config.logits_scaling if config.model_type == "hyperclovax" else 1 / config.logits_scaling
    softcap = getattr(config, "final_logit_softcapping", None) or getattr(config, "logits_soft_cap", None)
    return LogitTransform(scale=scale or 1.0, softcap=softcap, temperature=temperature)


@torch.no_grad()
def check_scoring_forward(model: PreTrainedModel, temperature: float, scoring_pass: str = "plain") -> None:
    """
    Checks that the scoring pass and the model's own logits give the same log-probabilities of all tokens. Model and
    temperature are those that were passed to [`add_scoring_forward`]. Unless `scoring_pass` is `"plain"`, the pass
    then shares prompts where that changes nothing, on a GPU only with `"shared"`: see [`share_prompts`].

    Raises:
        ValueError: If they differ, as for an architecture that changes its logits in a way that is not supported, or
            if its attention is a flash kernel and its weights are in float32.
    """
    check_attention(attention_of(model), model.dtype)
    training = model.training
    model.eval()
    ids = torch.arange(4, device=model.device)[None] % model.config.get_text_config().vocab_size
    own = (model(input_ids=ids).logits[0, :-1].float() / temperature).log_softmax(-1)
    try:
        scored = model(input_ids=ids, attention_mask=torch.ones_like(ids), completion_length=3, with_all=True)
        # A token with a logit of -inf is in neither sum.
        differences = (scored.all_log_probs - own).masked_fill(scored.all_log_probs == own, 0.0)
        difference = (differences.norm() / own[own.isfinite()].norm()).item()
    except RuntimeError:  # of shapes, where a layer lies between the states and a narrower head, as in ELECTRA
        difference = float("inf")
    model.train(training)
    tolerance = TOLERANCE if model.dtype == torch.float32 else TOLERANCE_IN_16_BITS
    if not difference <= tolerance:  # true for NaN
        raise ValueError(
            f"The log-probabilities under {type(model).__name__} must be those of its own logits, got a relative "
            f"difference of {difference:.2g} in lmrl's scoring pass: the architecture has positions, or changes its "
            "logits, in a way that is not supported. Use another architecture, or report this one."
        )
    if scoring_pass != "plain":
        share_prompts(backbone_of(model), may_share=scoring_pass == "shared" or model.device.type == "cpu")


@torch.no_grad()
def check_padding(model: PreTrainedModel) -> None:
    """
    Raises a `ValueError` if padding on the left of a prompt changes the log-probabilities of a model with the scoring
    forward, as where a recurrent state reads the padding, or positions count it.
    """
    was_training = model.training
    model.eval()
    ids = torch.arange(1, 6, device=model.device)[None] % model.config.get_text_config().vocab_size
    mask = torch.ones_like(ids)
    # An ordinary token, as an embedding of padding may be zeros, which a state does not show, until it is trained.
    padded_ids = torch.cat([ids, ids], dim=1)
    padded_mask = torch.cat([mask * 0, mask], dim=1)
    alone = model(input_ids=ids, attention_mask=mask, completion_length=2).log_probs
    padded = model(input_ids=padded_ids, attention_mask=padded_mask, completion_length=2).log_probs
    model.train(was_training)
    difference = (alone - padded).abs().max().item()
    if difference > (1e-3 if model.dtype == torch.float32 else 0.5):  # 16 bits have two or three digits
        raise ValueError(
            f"Padding on the left of a prompt must not change a model's log-probabilities, got a difference of "
            f"{difference:.3g} for {type(model).__name__}: what it computes of a prompt would depend on the others in "
            "the batch. Take another architecture, or, if all prompts have the same length, set "
            "`startup_checks=False`."
        )
