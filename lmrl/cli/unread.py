"""Arguments of TRL and transformers that are read only together with others: given without them, they are errors."""

from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from typing import Any, NamedTuple

from lmrl.settings import COMMAND_LINE, FILE


class _Rule(NamedTuple):
    """Arguments that are read only under a condition."""

    names: tuple[str, ...]  # `*` matches any ending
    deciding: tuple[str, ...]  # arguments in the condition; the rule applies to recipes that have all of these
    is_read: Callable[..., Any]  # takes the values of these
    remedy: str  # when the arguments are read, and what to do


def _unread(names: tuple[str, ...], remedy: str, *recipe_has: str) -> _Rule:
    """Returns a rule for arguments that are never read, in all recipes or in those that have certain arguments."""
    return _Rule(names, recipe_has, lambda *_: False, remedy)


def _beside(names: tuple[str, ...], *others: str) -> _Rule:
    """Returns a rule for arguments that are read if any of `others` is set; the message names the first of them."""
    return _Rule(names, others, lambda *values: any(values), f"It is read with `{others[0]}` alone.")


def _with_value(names: tuple[str, ...], other: str, *values: str) -> _Rule:
    """Returns a rule for arguments that are read if another one has one of some values; `*` matches any ending."""
    remedy = f"It is read with --{other} {' or '.join(values)} alone."
    return _Rule(names, (other,), lambda value: any(fnmatch(str(_text(value)), each) for each in values), remedy)


def _text(choice: Any) -> Any:
    """Returns a choice as text, also if the configuration has turned it into a member of an enumeration."""
    return getattr(choice, "value", choice)


def _has_tracker(report_to: Any, *wanted: str) -> bool:
    """Returns whether there is a tracker: one of `wanted` if given, else any."""
    trackers = {report_to} if isinstance(report_to, str) else set(report_to or ())
    return bool(trackers & {*wanted, "all"} if wanted else trackers - {"none"})


_SCRIPTS = ("do_train", "do_eval", "do_predict", "local_rank")
_OF_GENERAL_EVALUATION = (
    *("average_tokens_across_devices", "include_for_metrics", "batch_eval_metrics", "eval_do_concat_batches"),
    *("eval_use_gather_object", "eval_accumulation_steps", "label_names", "include_num_input_tokens_seen"),
    *("dataloader_drop_last", "log_multimodal"),
)
_OF_REWARD_MODELS = (
    *("average_tokens_across_devices", "eval_do_concat_batches", "include_for_metrics", "eval_accumulation_steps"),
)
_IN_PROCESS = (
    *("vllm_gpu_memory_utilization", "vllm_max_model_length", "vllm_tensor_parallel_size", "vllm_enable_sleep*"),
)
_CHECKPOINTING = ("gradient_checkpointing", "activation_checkpointing")
_WITHOUT_WARMUP = ("constant", "greedy", "reduce_lr_on_plateau")

_RULES = (
    _unread(_SCRIPTS, "Only example scripts of transformers read it. Leave it out."),
    _unread(("prediction_loss_only",), "The evaluation decides it. Leave it out."),
    # A policy is trained on samples, and lmrl evaluates it in its own way: docs/trainers.md gives each reason.
    _unread(_OF_GENERAL_EVALUATION, "Training by rewards has no use for it.", "num_generations"),
    _unread(
        _OF_REWARD_MODELS,
        "The training of a reward model has no use for it. Leave it out.",
        "center_rewards_coefficient",
    ),
    _Rule(
        ("vllm_server_*", "vllm_group_port"),
        ("use_vllm", "vllm_mode"),
        lambda use, mode: use and mode == "server",
        "It is read with `use_vllm` and vllm_mode=server alone.",
    ),
    _Rule(
        _IN_PROCESS,
        ("use_vllm", "vllm_mode"),
        lambda use, mode: use and mode == "colocate",
        "It is read with `use_vllm` and vllm_mode=colocate alone.",
    ),
    _beside(("vllm_*",), "use_vllm"),
    _beside(("transformers_continuous_batching_config",), "use_transformers_continuous_batching"),
    _beside(("hub_*",), "push_to_hub"),
    _beside(("ignore_data_skip", "restore_callback_states_from_checkpoint"), "resume_from_checkpoint"),
    _beside(tuple(f"{name}_kwargs" for name in _CHECKPOINTING), *_CHECKPOINTING),
    _beside(("greater_is_better",), "metric_for_best_model", "load_best_model_at_end"),
    _beside(("eval_tie_tolerance",), "win_rate"),
    _beside(("liger_kernel_config",), "use_liger_kernel"),
    _beside(("packing_strategy",), "packing", "padding_free"),
    _with_value(("eval_steps",), "eval_strategy", "steps"),
    _with_value(("eval_delay", "eval_on_start"), "eval_strategy", "steps", "epoch"),
    _with_value(("save_steps",), "save_strategy", "steps"),
    _with_value(("save_total_limit", "save_only_model"), "save_strategy", "steps", "epoch", "best"),
    _with_value(("logging_steps",), "logging_strategy", "steps"),
    _with_value(("length_column_name",), "train_sampling_strategy", "group_by_length"),
    _with_value(("optim_target_modules",), "optim", "apollo_*", "galore_*"),
    _Rule(
        ("run_name", "project"),
        ("report_to",),
        _has_tracker,
        "It is read with a tracker alone, such as --report_to wandb.",
    ),
    _Rule(
        ("trackio_*",),
        ("report_to",),
        lambda trackers: _has_tracker(trackers, "trackio"),
        "It is read with report_to=trackio alone.",
    ),
    _Rule(
        ("num_train_epochs",),
        ("max_steps",),
        lambda steps: steps < 1,
        "`max_steps` sets the length of the training: leave either out, or set --max_steps -1.",
    ),
    _Rule(
        ("metric_for_best_model",),
        ("eval_strategy", "save_strategy", "load_best_model_at_end"),
        lambda strategy, save, best: best or _text(save) == "best" or _text(strategy) != "no",
        "It is read with --eval_strategy steps and --load_best_model_at_end alone.",
    ),
    _Rule(
        ("eval_mbr_metric", "eval_pass_threshold"),
        ("eval_num_samples",),
        lambda samples: samples > 1,
        "It is read with `eval_num_samples` above 1 alone.",
    ),
    _Rule(
        ("warmup_steps", "warmup_ratio"),
        ("lr_scheduler_type",),
        lambda kind: _text(kind) not in _WITHOUT_WARMUP,
        "It is read with --lr_scheduler_type linear, cosine or constant_with_warmup alone.",
    ),
)


def check_places(places: Mapping[str, str], values: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """
    Raises an error for the first given argument that would not be read; `places` has where each was given.

    `None`, and a switch that is off as by default, are no error. Nor are settings in a file for something that the
    command line turns off: that they are not read is what the user wants.
    """
    for name, place in places.items():
        value = values.get(name)
        if value is None or (value is False and not defaults.get(name)):
            continue
        for rule in _RULES:
            if not any(fnmatch(name, pattern) for pattern in rule.names) or not values.keys() >= {*rule.deciding}:
                continue
            is_turned_off = place == FILE and any(places.get(other) == COMMAND_LINE for other in rule.deciding)
            if not is_turned_off and not rule.is_read(*(values[other] for other in rule.deciding)):
                raise ValueError(f"`{name}` must be left out here, got {value!r}: it would not be read. {rule.remedy}")
