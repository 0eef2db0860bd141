"""What a policy with adapters needs beyond TRL: full precision, a folder without copies, its base lent to rewards."""

import functools
from collections.abc import Iterable
from typing import Any

from accelerate.utils import is_peft_model
from torch import Tensor

from lmrl.models import offer_base_model, upcast_adapters_to_fp32


def adapter_weights(model: Any) -> dict[str, Tensor]:
    """Returns the trainable weights of a policy that has an adapter already; of another one nothing."""
    if not is_peft_model(model):
        return {}
    return {name: weight.data for name, weight in model.named_parameters() if weight.requires_grad}


def settle_adapters(model: Any, given: dict[str, Tensor]) -> None:
    """
    Undo two things that TRL does with a policy with adapters.

    On a quantised base it rounds the adapter to bfloat16, as is done for supervised tuning: the small steps of
    reinforcement learning would be rounded away, and an adapter trained further would not be the one that was given.
    And it would save its frozen copy of an adapter trained further in a folder `ref` of each checkpoint; a resumed run
    makes that copy again.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            Policy as TRL left it.
        given (`dict[str, torch.Tensor]`):
            What [`adapter_weights`] returned before.
    """
    if not is_peft_model(model):
        return
    for name, weight in model.named_parameters():
        if name in given and weight.dtype != given[name].dtype:
            weight.data = given[name].to(weight.device)
    upcast_adapters_to_fp32(model)
    model.save_pretrained = functools.partial(model.save_pretrained, selected_adapters=model.active_adapters[:1])


def share_base(trainer: Any, rewards: Iterable[Any]) -> None:
    """
    Lend the base of a policy with adapters to the rewards, unless the engine shards or casts it.

    Args:
        trainer ([`PolicyGradientTrainer`]):
            Trainer whose policy is in its place.
        rewards (iterable of `Callable`):
            Rewards of any kind.
    """
    if is_peft_model(trainer.model) and not (trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled):
        offer_base_model(trainer.model.get_base_model(), rewards)
