"""The forward of a supervised step on a CPU: log-probabilities of the labelled positions alone."""

import functools
import types
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lmrl.models import ScoredCompletions, backbone_of, share_prompts
from lmrl.models.log_probs import LogitTransform
from lmrl.models.scoring import TOLERANCE_IN_16_BITS, add_scoring_heads, logit_transform, scatter_to_padded
from lmrl.models.shared_prompts import StatesBefore

_IGNORED = -100  # the label of a position that is not trained on


def add_supervised_forward(model: Any) -> None:
    """
    Patches the forward that `trl.SFTTrainer` calls to project labelled positions only, with equal results.

    On a GPU TRL does so itself. On a CPU it projects every position, prompts and padding included, through the LM
    head, forward and backward, and multiplies in float32 in the backward pass: half of a step of a small model. TRL
    computes its loss and its logs from this forward's outputs as from those of its own. The layers, too, leave out
    padding, and compute only once what several rows begin with, such as a prompt with several references.

    Args:
        model ([`~transformers.PreTrainedModel`] or `peft.PeftModel`):
            Model of an [`~trl.SFTTrainer`] that has been constructed and has not yet trained.
    """
    base: PreTrainedModel = model.get_base_model() if hasattr(model, "peft_config") else model
    fused = base.forward
    transform = logit_transform(base, temperature=1.0)
    weights = list(base.parameters())
    if all(weight.numel() and weight.device.type == "cpu" for weight in weights):  # under ZeRO-3 they are elsewhere
        if not _projects_last_states(base, transform):
            return
        share_prompts(backbone_of(base))
    add_scoring_heads(base)

    @functools.wraps(type(base).forward)  # `generate` reads the signature
    def forward(
        self: PreTrainedModel,
        *args: Any,
        fused_lm_head: bool = False,
        labels: Tensor | None = None,
        num_items_in_batch: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Scores the labels on a CPU; otherwise runs the forward that was patched."""
        # The router's logits balance the load of experts; sequences that are spread over devices have shifted labels.
        is_other = kwargs.get("output_router_logits") or kwargs.get("shift_labels") is not None
        if not fused_lm_head or labels is None or labels.device.type != "cpu" or is_other:
            given = {"labels": labels, "num_items_in_batch": num_items_in_batch}
            given = {name: value for name, value in given.items() if value is not None}
            return fused(*args, fused_lm_head=fused_lm_head, **given, **kwargs)
        kwargs["use_cache"] = False
        targets = labels[:, 1:]
        mask = targets != _IGNORED
        states = _labelled_states(backbone_of(self), mask, args, kwargs)
        scored = self.get_output_embeddings()(states, targets=targets[mask], transform=transform, with_top1=True)
        log_probs, entropy, is_top1 = (scatter_to_padded(values, mask) for values in scored)
        count = mask.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        return ScoredCompletions(
            loss=-log_probs.sum() / count, log_probs=log_probs, entropy=entropy, is_top1=is_top1, label_mask=mask
        )

    base.forward = types.MethodType(forward, base)


@torch.no_grad()
def _projects_last_states(base: PreTrainedModel, transform: LogitTransform) -> bool:
    """Returns whether nothing lies between backbone and head, as a layer does in BERT and ELECTRA."""
    training = base.training
    base.eval()
    ids = torch.arange(4)[None] % base.config.get_text_config().vocab_size
    logits = base(input_ids=ids).logits.float()
    states = backbone_of(base)(input_ids=ids).last_hidden_state
    base.train(training)
    head = base.get_output_embeddings()
    if states.shape[-1] != head.weight.shape[1]:
        return False
    difference = (transform.apply(head(states)) - logits).norm() / logits.norm()
    return difference.item() <= TOLERANCE_IN_16_BITS


def _labelled_states(backbone: nn.Module, mask: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Returns the hidden states before the labelled tokens, (N, D); `mask` (B, L - 1) leaves the first token out."""
    given = {name for name, value in kwargs.items() if value is not None} - {"use_cache"}
    if args or given != {"input_ids", "attention_mask"} or mask.shape[1] == 0:
        states: Tensor = backbone(*args, **kwargs).last_hidden_state
        return states[:, :-1][mask]
    attention_mask = kwargs["attention_mask"]
    read = StatesBefore(kwargs["input_ids"], attention_mask, mask.shape[1])
    return read(backbone)[mask[attention_mask[:, 1:].bool()]]
