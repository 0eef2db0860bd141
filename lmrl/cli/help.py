"""The `--help` of the recipes: arguments in groups, those of lmrl and the most used ones of the libraries first."""

import inspect
import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from lmrl.utils import members_of

_COLUMN = 33  # at which the descriptions begin

# By group, the arguments that come first: those of TRL and transformers that most users set, with a description if the
# library's first sentence is long or does not stand alone, and a few of lmrl's trainers.
_COMMON: dict[str, dict[str, str]] = {
    "Model": {
        "model_name_or_path": "",
        "dtype": "Precision of the weights.",
        "attn_implementation": "Attention, for example flash_attention_2.",
        "load_in_4bit": "Load the base in 4 bits, under a LoRA adapter.",
        "use_peft": "",
        "lora_r": "",
        "lora_alpha": "",
        "lora_target_modules": "",
        "max_length": "",
        "trust_remote_code": "Run code that a model of the hub brings along.",
    },
    "Data": {},
    "Rewards": {"rewards": "", "reward_weights": "Weights of the rewards, in their order.", "missing_eos_penalty": ""},
    "Training": {
        "learning_rate": "Peak learning rate.",
        "lr_scheduler_type": "Schedule of the learning rate.",
        "max_steps": "Optimizer steps; -1: num_train_epochs.",
        "num_train_epochs": "Passes over the training rows.",
        "per_device_train_batch_size": "Rows of a batch, on each device.",
        "gradient_accumulation_steps": "Batches per optimizer step.",
        "gradient_checkpointing": "Recompute activations: less memory, slower.",
        "num_generations": "Completions per prompt.",
        "max_completion_length": "Maximum number of tokens of a completion.",
        "temperature": "Temperature of sampling.",
        "beta": "Coefficient of the KL penalty.",
        "num_iterations": "Epochs over each rollout.",
        "steps_per_generation": "Batches of a rollout: PPO's minibatches.",
        "epsilon": "Clip range of the ratio.",
        "use_vllm": "Generate with vLLM.",
        "seed": "Seed of everything random.",
    },
    "Evaluation": {
        "eval_strategy": "When to evaluate: no, steps or epoch.",
        "eval_steps": "Optimizer steps between evaluations.",
    },
    "Output": {
        "output_dir": "Folder of the model, its scores and the report.",
        "overwrite": "",
        "resume_from_checkpoint": "Checkpoint: a folder, true or latest.",
        "logging_steps": "Optimizer steps between logs.",
        "report_to": "Trackers, for example wandb.",
        "save_strategy": "When to save: no, steps, epoch or best.",
        "save_steps": "Optimizer steps between checkpoints.",
        "load_best_model_at_end": "Keep the best checkpoint instead of the last.",
        "metric_for_best_model": "Metric of the best checkpoint.",
        "push_to_hub": "Upload the model to the hub.",
    },
}
_ADVANCED = (
    "cliprange_value",
    "critic_extra_epochs",
    "critic_forgetting",
    "critic_warmup_steps",
    "drop_equal_groups",
    "equal_groups_tolerance",
    "kl_estimator",
    "kl_scope",
    "loss_level",
    "loss_type",
    "resample_equal_groups",
    "rollouts_to_save",
    "scale_rewards",
    "scoring_pass",
    "target_kl",
    "use_cuda_graphs",
    "vllm_importance_sampling_correction",
    "vllm_importance_sampling_mode",
    "vllm_importance_sampling_clip_max",
    "vllm_importance_sampling_clip_min",
)  # arguments of lmrl that only `--help all` prints
_OF_COMPARISON = ("win_rate", "eval_tie_tolerance")  # too, in recipes that compare only their own two models
_LAST = ("Evaluation", "Output")  # come after the trainer's own group
_REST = "Other arguments of TRL and transformers"


@dataclass(frozen=True)
class Argument:
    """An argument in the form in which it is printed."""

    group: str  # heading above it
    name: str
    form: str  # what to write as a value
    summary: str  # one sentence
    description: str
    default: str  # empty if not worth printing


def wants_help(argv: Sequence[str]) -> str | None:
    """Returns `all` for `--help all`, an empty string for `--help` or `-h`, and `None` where neither is given."""
    if "--help=all" in argv:
        return "all"
    for position, word in enumerate(argv):
        if word in ("-h", "--help"):
            return "all" if argv[position + 1 : position + 2] == ["all"] else ""
    return None


def describe(dataclass_types: Iterable[type]) -> list[Argument]:
    """Returns the arguments for the fields of dataclasses, and `--config`."""
    arguments = [_describe(field, kind) for kind in dataclass_types for field in fields(kind) if field.init]
    config = "YAML file with any of these arguments."
    return [*arguments, Argument("Output", "config", "FILE", config, config, "")]


def write_help(
    arguments: Sequence[Argument], program: str, everything: bool, demo: tuple[Path, Mapping[str, Any]] | None = None
) -> str:
    """
    Returns the help of a recipe, whose file is called `program`, with its arguments from [`describe`]: with
    `everything` all of them with their complete descriptions, else lmrl's and the most used ones with a summary.

    `demo` is the YAML file that applies if neither a file nor a model nor a dataset is given, and its values.
    """
    width = min(shutil.get_terminal_size((100, 24)).columns, 119)
    lines = [
        f"usage: {program} [--config FILE] [--name value ...]",
        "",
        "The command line overrides the file.",
        "`--switch` turns a switch on, `--switch false` turns it off.",
    ]
    if not everything:
        lines.append("`--help all` prints all arguments, with their complete descriptions.")
    if demo is not None:
        path, values = demo
        flags = [(flag, value if isinstance(value, list) else [value]) for flag, value in values.items()]
        given = " ".join(f"--{flag} {' '.join(map(str, items))}" for flag, items in flags)
        text = f"Without --config, --model_name_or_path and --dataset_name, {path.name} applies: {given}"
        lines += textwrap.wrap(text, width, break_on_hyphens=False)
    groups = _in_order({argument.group for argument in arguments})
    if not everything:
        groups = [group for group in groups if group != _REST]
        hidden = _ADVANCED if "Comparison" in groups else (*_ADVANCED, *_OF_COMPARISON)
        arguments = [argument for argument in arguments if argument.name not in hidden]
    for group in groups:
        lines += ["", group.upper()]
        for argument in _sort(group, [one for one in arguments if one.group == group]):
            lines += _format(argument, width, everything)
    return "\n".join(lines) + "\n"


def _in_order(groups: set[str]) -> list[str]:
    """Returns the groups in the order of the help: a recipe's own groups come after `Training`."""
    first = [group for group in _COMMON if group not in _LAST]
    own = sorted(groups - {*_COMMON, _REST})
    return [group for group in (*first, *own, *_LAST, _REST) if group in groups]


def _sort(group: str, arguments: list[Argument]) -> list[Argument]:
    """Returns the arguments of a group: first those of `_COMMON` in its order, then the others as declared."""
    places = {name: place for place, name in enumerate(_COMMON.get(group, ()))}
    return sorted(arguments, key=lambda argument: places.get(argument.name, len(places)))


def _describe(field: "Field[Any]", kind: type) -> Argument:
    """Returns the argument for a field of a dataclass."""
    owner = next(base for base in kind.__mro__ if field.name in inspect.get_annotations(base))
    from_library = owner.__module__.split(".")[0] in ("trl", "transformers")
    group = _group(field.name, kind, owner, from_library)
    description = " ".join(str(field.metadata.get("help", "")).replace("%%", "%").split())
    summary = _COMMON.get(group, {}).get(field.name, "") if from_library else ""
    form = _form(get_type_hints(kind)[field.name])
    return Argument(group, field.name, form, summary or _first_sentence(description), description, _default(field))


def _group(name: str, kind: type, owner: type, from_library: bool) -> str:
    """Returns the group of a field of `kind` that `owner`, one of its base classes, declares."""
    if kind.__name__.endswith("Arguments") and not from_library:
        return str(getattr(kind, "_argument_group_name", kind.__name__.removesuffix("Arguments")))
    for group, names in _COMMON.items():
        if name in names:
            return group
    if from_library:
        return _REST
    # Fields of a configuration are under its name; those of a class between it and the library's, under Training.
    return kind.__name__.removesuffix("Config") if owner is kind else "Training"


def _form(hint: Any) -> str:
    """Returns the placeholder for a value: its kind, or the choices; an empty text for a switch."""
    members = [one for one in members_of(hint) if one is not NoneType]
    first = members[0]
    if get_origin(first) is Literal:
        return "{" + ",".join(map(str, get_args(first))) + "}"
    if first is bool:
        return ""
    if isinstance(first, type) and issubclass(first, Enum):
        return "NAME"
    plain = [get_origin(one) or one for one in members]
    kinds = {list: "VALUE ...", int: "N", float: "X", dict: "JSON"}
    return next((form for kind, form in kinds.items() if kind in plain), "TEXT")


def _default(field: "Field[Any]") -> str:
    """Returns a default as text; empty if it is not worth printing, as for `None`, off or an empty text."""
    value = field.default if field.default_factory is MISSING else field.default_factory()
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, list):
        value = " ".join(map(str, value))
    return "" if value is None or value is MISSING or value is False or value == "" else str(value)


def _format(argument: Argument, width: int, complete: bool) -> list[str]:
    """Returns the lines of an argument: its name and placeholder, and its description beside or below."""
    head = f"  --{argument.name} {argument.form}".rstrip()
    text = argument.description if complete else argument.summary
    if argument.default:
        text = f"{text} [{argument.default}]"
    body = textwrap.wrap(text, max(width - _COLUMN, 20), break_on_hyphens=False)
    indent = " " * _COLUMN
    if len(head) < _COLUMN - 1 and body:
        return [f"{head:<{_COLUMN}}{body[0]}", *(indent + line for line in body[1:])]
    return [head, *(indent + line for line in body)]


def _first_sentence(text: str) -> str:
    """Returns a text up to the first full stop before a space."""
    sentence, stop, _ = text.partition(". ")
    return sentence + stop.rstrip()
