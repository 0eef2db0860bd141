"""A policy's base weights, offered to rewards that run on the same base."""

import copy
import functools
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from transformers import PreTrainedModel

from .adapters import backbone_of
from .shared_prompts import share_in_forward


def bare_backbone(model: PreTrainedModel) -> PreTrainedModel:
    """
    Returns a policy's backbone without its head and its adapters, as new modules around the same base weights.

    It needs hardly any memory, and changing it (adding an adapter, another mode) does not affect the policy. Changes
    of the policy's base weights do affect it: do not merge the policy's adapter in place. `model` is the base model
    inside PEFT's wrapper. If its scoring pass shares beginnings, so does the backbone's forward: [`share_in_forward`].
    """
    backbone: PreTrainedModel = _shell(backbone_of(model)).eval()
    if getattr(backbone, "pass_form", None):
        share_in_forward(backbone)
    return backbone


def _shell(module: Any) -> Any:
    if isinstance(module, BaseTunerLayer):
        return _shell(module.get_base_layer())
    if isinstance(module, AuxiliaryTrainingWrapper):
        return _shell(module.original_module)
    shell = copy.copy(module)
    for name, value in vars(module).items():
        if isinstance(value, OrderedDict) and "hooks" in name:
            vars(shell)[name] = OrderedDict()
    for name in ("_parameters", "_buffers"):
        vars(shell)[name] = dict(vars(module)[name])
    vars(shell)["_modules"] = {
        name: None if child is None else _shell(child) for name, child in vars(module)["_modules"].items()
    }
    return shell


def offer_base_model(model: PreTrainedModel, reward_funcs: Iterable[Any]) -> None:
    """
    Offers the base weights of a policy that is trained with LoRA to rewards, in backbones of [`bare_backbone`].

    A reward that can run on them has a method `use_base_model`, which takes a function that makes such a backbone and
    returns whether the reward uses one: a reward model that is an adapter on the same base then needs no base of its
    own. Nothing is offered where base weights are trained too (`bias="all"`). The model is the base model inside
    PEFT's wrapper.
    """
    make_backbone: Callable[[], PreTrainedModel] = functools.partial(bare_backbone, model)
    if any(weight.requires_grad for weight in make_backbone().parameters()):
        return
    for reward in reward_funcs:
        use_base_model: Any = getattr(reward, "use_base_model", None)
        if use_base_model is not None:
            use_base_model(make_backbone)
