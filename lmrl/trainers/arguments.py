"""Checks of a trainer's arguments, and their form for TRL."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from trl import BEMACallback

from lmrl.saving import check_writable
from lmrl.utils import refuse

from .configs import PolicyGradientConfig
from .reward_checks import CheckedReward
from .startup_checks import check_columns


def new_config(kind: type[PolicyGradientConfig], model: Any, algorithm: str) -> PolicyGradientConfig:
    """Returns a configuration of defaults, with a folder named after the model."""
    name = model if isinstance(model, str | Path) else model.config._name_or_path
    return kind(f"{Path(name).name}-{algorithm}")


def check(
    kind: type[PolicyGradientConfig],
    model: Any,
    rewards: Sequence[CheckedReward],
    args: PolicyGradientConfig,
    train_dataset: Any,
    eval_dataset: Any,
    *others: Any,
) -> None:
    """Checks the arguments of a trainer against each other, and that the columns and its folder are there."""
    held_out_metrics, reward_processing_classes, quantization_config, peft_config = others
    if not isinstance(args, kind):
        raise TypeError(f"`args` must be a {kind.__name__}, got a {type(args).__name__}. It takes the same and more.")
    is_loaded = not isinstance(model, str | Path)
    is_frozen = is_loaded and not any(weight.requires_grad for weight in model.parameters())
    weights = args.reward_weights
    sets = list(sets_by_name(eval_dataset))
    is_one_of_several = callable(held_out_metrics) and isinstance(eval_dataset, dict)
    measured = list(held_out_metrics) if isinstance(held_out_metrics, dict) else ["one function"] * is_one_of_several
    refuse(
        {
            f"`reward_weights` must have a weight for each of the {len(rewards)} rewards, got {weights}. Give as "
            "many, or leave it out for weights of 1.": weights is not None and len(weights) != len(rewards),
            "`reward_processing_classes` must be None, got one. Rewards are functions of texts: give the tokenizer to "
            "lmrl.rewards.RewardModel or Classifier.": reward_processing_classes is not None,
            "`quantization_config` and `model_init_kwargs` must be None for a model that is loaded already, got one. "
            "Load the model with it, or pass its name.": is_loaded and (quantization_config or args.model_init_kwargs),
            "`model` must have weights that train, got none (requires_grad=False). Load an adapter with "
            "is_trainable=True, or pass its folder.": is_frozen and peft_config is None,
            f"`held_out_metrics` must be a dict of functions by the names of `eval_dataset`, {sets}, got {measured}. "
            "Give each set its own.": not set(measured) <= set(sets),
        }
    )
    check_columns(rewards, {"train_dataset": train_dataset} | sets_by_name(eval_dataset), args.remove_unused_columns)
    if args.should_save:
        check_writable(args.output_dir)


def check_training(optimizer: Any, scheduler: Any, policy: nn.Module, has_critic: bool, experts_loss: float) -> None:
    """Checks that the policy is trained by an optimizer which was given, and by its loss; else a `ValueError`."""
    groups = [] if optimizer is None else optimizer.param_groups
    trained = {id(weight) for group in groups for weight in group["params"]}
    has_weights = any(weight.requires_grad and id(weight) in trained for weight in policy.parameters())
    refuse(
        {
            f"`router_aux_loss_coef` must be 0.0 for a mixture of experts, got {experts_loss}, which may be the "
            "model's. Their load is not balanced: set it to 0.0.": experts_loss != 0,
            "`optimizers` must have an optimizer of the policy's weights that train, got one without any. With "
            "`peft_config` the trainer makes these: leave it out.": optimizer is not None and not has_weights,
            "`optimizers` must have no schedule with a critic, got one. The critic's weights come to those of the "
            "optimizer, and would have no learning rate in it: set `lr_scheduler_type`.": scheduler and has_critic,
        }
    )


def check_callbacks(callbacks: Sequence[Any], has_critic: bool) -> None:
    """Checks that each callback can take the policy as it is; else a `ValueError`."""
    averages = any(isinstance(callback, BEMACallback) for callback in callbacks)
    refuse(
        {
            "`callbacks` must have no BEMACallback with a critic, got one. It makes a model of the policy's class, "
            "which has no critic: leave it out, or train with ReinforceTrainer.": averages and has_critic
        }
    )


def sampled_sets(eval_dataset: Any, held_out_metrics: Any) -> dict[str, Any]:
    """Returns the held-out sets that no function measures, for which the trainer samples, by their names."""
    if callable(held_out_metrics):
        return {}
    return {name: rows for name, rows in sets_by_name(eval_dataset).items() if name not in (held_out_metrics or {})}


def sets_by_name(eval_dataset: Any) -> dict[str, Any]:
    """Returns the held-out sets by their names; one alone is called `eval_dataset`."""
    return eval_dataset if isinstance(eval_dataset, dict) else {"eval_dataset": eval_dataset}
