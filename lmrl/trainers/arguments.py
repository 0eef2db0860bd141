"""The arguments of a trainer: their checks, and the policy and the rows in the form that TRL takes."""

import copy
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import is_peft_model
from datasets import Dataset
from peft import LoraConfig, PromptLearningConfig
from torch import nn
from transformers import PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled
from trl import BEMACallback

from lmrl import models
from lmrl.checks import check_columns, check_policy, checked_rewards
from lmrl.fused_lora import fuse_adapters
from lmrl.precision import avoid_cudnn_attention
from lmrl.saving import check_writable
from lmrl.utils import refuse, shorten

from .checkpointing.run_state import check_resumable
from .configs import PolicyGradientConfig
from .reference import REFERENCE_ADAPTER

logger = get_logger(__name__)

# Values of `init_lora_weights` that leave the weights of the base as they are.
INITS_THAT_KEEP_THE_BASE = (True, False, "gaussian", "eva", "orthogonal")
# Settings that TRL must not see: it would load a reference from disk (lmrl's is a copy of the given policy), warn of
# the model's options, and take a completion that was cut behind a padding token for one that has ended.
HIDDEN_FROM_TRL = dict(beta=0.0, sync_ref_model=False, model_init_kwargs=None, mask_truncated_completions=False)


@dataclass
class Given:
    """A trainer's arguments, by their names there: checked, with rows made datasets and the policy loaded."""

    trainer: Any  # the class
    unknown: Mapping[str, Any]
    model: Any
    reward_funcs: Any
    args: Any
    train_dataset: Any
    eval_dataset: Any
    processing_class: Any
    held_out_metrics: Any
    reward_processing_classes: Any
    quantization_config: Any
    peft_config: Any

    def __post_init__(self) -> None:
        check_known(self.trainer, self.unknown)
        check_policy(self.model)
        if self.args is None:
            name = self.model if isinstance(self.model, str | Path) else self.model.config._name_or_path
            self.args = self.trainer.config_class(f"{Path(name).name}-{self.trainer.name}")
        self.reward_funcs = checked_rewards(self.reward_funcs)
        self.train_dataset = _as_dataset(self.train_dataset)
        self.eval_dataset = _as_dataset(self.eval_dataset)
        self._check()
        args = self.args
        options = {"trust_remote_code": args.trust_remote_code, "visible_tokens": args.visible_tokens}
        options |= args.model_init_kwargs or {}
        if self.quantization_config is not None:
            options["quantization_config"] = self.quantization_config
        if args.distributed_state.distributed_type in ("MULTI_GPU", "DEEPSPEED"):
            options["device_map"] = None  # each process has the model on its own device
        self.model, self.processing_class = models.load_policy(self.model, self.processing_class, **options)
        named = self.model.named_parameters() if is_peft_model(self.model) else ()
        self.adapter_weights = {name: weight.data for name, weight in named if weight.requires_grad}
        self.frozen_copy = self._copy_before_adapter()

    def for_trl(self) -> tuple[Any, ...]:
        """Returns the first arguments of TRL's trainer; the configuration is a copy that trainers may write to."""
        own_args = copy.deepcopy(self.args)
        own_args.choose_learning_rates(isinstance(models.adapter_config(self.model, self.peft_config), LoraConfig))
        vars(own_args).update(HIDDEN_FROM_TRL)
        return self.model, self.reward_funcs, own_args, self.train_dataset, self.eval_dataset, self.processing_class

    def sampled_sets(self) -> dict[str, Any]:
        """Returns by name the data sets that completions are sampled for, without those that a function measures."""
        sets = {} if callable(self.held_out_metrics) else _sets_by_name(self.eval_dataset)
        sampled = {name: rows for name, rows in sets.items() if name not in (self.held_out_metrics or {})}
        return {"train_dataset": self.train_dataset} | sampled

    def prepare(self, model: Any, own_args: PolicyGradientConfig) -> None:
        """
        Prepares the policy for training once TRL has it, and restores the settings that were hidden from TRL.

        It undoes what TRL does to adapters: on a quantised base it rounds them to bfloat16, which loses small steps;
        of one that is trained further it makes a frozen copy `ref`, without weights of embeddings, and saves it too.
        """
        own_args.__dict__.update({name: getattr(self.args, name) for name in HIDDEN_FROM_TRL})
        check_resumable(own_args, model)
        if is_peft_model(model):
            for name, weight in model.named_parameters():
                if name.endswith(".default") and REFERENCE_ADAPTER in model.peft_config:
                    model.get_parameter(name.removesuffix("default") + REFERENCE_ADAPTER).data.copy_(weight)
                if name in self.adapter_weights and weight.dtype != self.adapter_weights[name].dtype:
                    weight.data = self.adapter_weights[name].to(weight.device)
            models.upcast_adapters_to_fp32(model)
            trained = model.active_adapters[:1]
            model.save_pretrained = functools.partial(model.save_pretrained, selected_adapters=trained)
        if own_args.disable_dropout:
            models.disable_dropout(model)
        avoid_cudnn_attention()
        models.base_of(model).use_cuda_graphs = own_args.use_cuda_graphs
        models.fuse_activations(model)
        if not is_deepspeed_zero3_enabled():
            fuse_adapters(model)
        elif is_peft_model(model):
            logger.warning("Adapters run beside their layers: ZeRO-3 gathers the weights of each layer by itself.")

    def _check(self) -> None:
        args = self.args
        kind = self.trainer.config_class
        if not isinstance(args, kind):
            got = type(args).__name__
            raise TypeError(f"`args` must be a {kind.__name__}, got a {got}. It takes the same and more.")
        is_loaded = not isinstance(self.model, str | Path)
        is_frozen = is_loaded and not any(weight.requires_grad for weight in self.model.parameters())
        loads = self.quantization_config or args.model_init_kwargs
        number = len(self.reward_funcs)
        weights = args.reward_weights
        sets = _sets_by_name(self.eval_dataset)
        measured = list(self.held_out_metrics) if isinstance(self.held_out_metrics, dict) else []
        if callable(self.held_out_metrics) and isinstance(self.eval_dataset, dict):
            measured = ["one function"]
        refuse(
            {
                f"`reward_weights` must have a weight for each of the {number} rewards, got {weights}. Give as many, "
                "or leave it out for weights of 1.": weights is not None and len(weights) != number,
                "`reward_processing_classes` must be None, got one. Rewards are functions of texts: give the "
                "tokenizer to lmrl.rewards.RewardModel or Classifier.": self.reward_processing_classes is not None,
                "`quantization_config` and `model_init_kwargs` must be None for a model that is loaded already, got "
                "one. Load the model with it, or pass its name.": is_loaded and loads,
                "`model` must have weights that train, got none (requires_grad=False). Load an adapter with "
                "is_trainable=True, or pass its folder.": is_frozen and self.peft_config is None,
                f"`held_out_metrics` must be a dict of functions by the names of `eval_dataset`, {list(sets)}, got "
                f"{measured}. Give each set its own.": not sets.keys() >= set(measured),
            }
        )
        check_columns(self.reward_funcs, {"train_dataset": self.train_dataset} | sets, args.remove_unused_columns)
        if args.should_save:
            check_writable(args.output_dir)

    def _copy_before_adapter(self) -> PreTrainedModel | None:
        """
        Returns a copy of the policy as its reference if turning the adapter off would not restore the given policy: if
        it also trains biases of the base, or starts from a part of the base's weights. Otherwise None.
        """
        config = models.adapter_config(self.model, self.peft_config)
        trains_bias = getattr(config, "bias", "none") != "none"
        changes_base = trains_bias or getattr(config, "init_lora_weights", True) not in INITS_THAT_KEEP_THE_BASE
        is_needed = changes_base and self.args.beta != 0 and self.args.reference_model_name_or_path is None
        kind = type(config).__name__
        refuse(
            {
                f"`peft_config` must be an adapter of the model's layers, such as a LoraConfig, got a {kind}. Virtual "
                "tokens before the prompt are not scored.": isinstance(config, PromptLearningConfig),
                "`bias` and `init_lora_weights` of an adapter that is trained further must leave its base as it is, "
                f"got {config}. Merge it first (`lmrl merge`).": changes_base and hasattr(self.model, "peft_config"),
                "`bias` and `init_lora_weights` of an adapter must leave its base as it is under ZeRO-3, got "
                f"{config}. The reference would be a copy of shards: name it (`reference_model_name_or_path`), or use "
                "another engine.": is_needed and is_deepspeed_zero3_enabled(),
            }
        )
        if not is_needed:
            return None
        copied = models.base_of(copy.deepcopy(self.model))
        models.fuse_activations(copied)
        return copied


def check_known(trainer: Any, unknown: Mapping[str, Any]) -> None:
    """Raises a `TypeError` for an argument that trainers do not have, with what to use instead."""
    for name, value in unknown.items():
        remedy = "Options of the training are fields of `args`."
        if name == "ref_model":
            remedy = "The reference is a frozen copy of the policy, or `reference_model_name_or_path` of `args`."
        raise TypeError(f"`{name}` must be left out of {trainer.__name__}, got {shorten(value)}. {remedy}")


def _as_dataset(rows: Any) -> Any:
    """Returns a list of `dict` as a dataset, also inside a `dict` of several sets; other rows as they are."""
    if isinstance(rows, dict):
        return {name: _as_dataset(rows_of_set) for name, rows_of_set in rows.items()}
    return Dataset.from_list(rows) if isinstance(rows, list) else rows


def _sets_by_name(eval_dataset: Any) -> dict[str, Any]:
    """Returns the held-out sets by their names; one alone is called `eval_dataset`."""
    return eval_dataset if isinstance(eval_dataset, dict) else {"eval_dataset": eval_dataset}


def held_out_set(metric_key_prefix: str, held_out_metrics: Any) -> tuple[str, Any]:
    """Returns the held-out set's name by a metric prefix, empty for a single set, and the function to measure it."""
    name = metric_key_prefix.removeprefix("eval").removeprefix("_")
    if isinstance(held_out_metrics, dict):
        return name, held_out_metrics.get(name or "eval_dataset")
    return name, held_out_metrics


def trains_critic(policy: nn.Module) -> bool:
    """Returns whether a policy has a critic with weights to train; a critic that is fitted has none."""
    return any("critic." in name for name, _ in policy.named_parameters())


def check_training(optimizer: Any, scheduler: Any, policy: nn.Module, experts_loss: float) -> None:
    """Raises a `ValueError` if a given optimizer or schedule, or the loss of experts, cannot train this policy."""
    groups = [] if optimizer is None else optimizer.param_groups
    trained = {id(weight) for group in groups for weight in group["params"]}
    schedules = scheduler is not None and trains_critic(policy)
    has_weights = any(weight.requires_grad and id(weight) in trained for weight in policy.parameters())
    refuse(
        {
            f"`router_aux_loss_coef` must be 0.0 for a mixture of experts, got {experts_loss}, which may be the "
            "model's. Their load is not balanced: set it to 0.0.": experts_loss != 0,
            "`optimizers` must have an optimizer of the policy's weights that train, got one without any. With "
            "`peft_config` the trainer makes these: leave it out.": optimizer is not None and not has_weights,
            "`optimizers` must have no schedule with a critic that is trained, got one. The critic's weights come to "
            "those of the optimizer, and would have no learning rate in it: set `lr_scheduler_type`.": schedules,
        }
    )


def offer_base_model(policy: Any, reward_funcs: Sequence[Any], accelerator: Accelerator) -> None:
    """Offers the base model of a policy with adapters to rewards that can run on the same base, if it is no shard."""
    if is_peft_model(policy) and accelerator.distributed_type not in ("DEEPSPEED", "FSDP"):
        models.offer_base_model(models.base_of(policy), [reward.reward_func for reward in reward_funcs])


def check_callbacks(callbacks: Sequence[Any], policy: nn.Module) -> None:
    """Raises a `ValueError` for a callback that cannot handle a policy whose critic is trained."""
    averages_critic = trains_critic(policy) and any(isinstance(callback, BEMACallback) for callback in callbacks)
    refuse(
        {
            "`callbacks` must have no BEMACallback with a critic that is trained, got one. It makes a model of the "
            "policy's class, which has none: leave it out, or take critic='least_squares'.": averages_critic
        }
    )
