"""Wrong and strange arguments, data files, rewards and checkpoints, drawn at random; used by test_fuzz.py."""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml
from transformers import TrainingArguments
from trl import RewardConfig, SFTConfig

from lmrl.arguments import (
    ComparisonArguments,
    DataArguments,
    EvaluationArguments,
    LabelArguments,
    ModelArguments,
    PreferenceArguments,
    RewardArguments,
)
from lmrl.trainers import PPOConfig, ReinforceConfig

KINDS: dict[str, tuple[type, ...]] = {
    "sft": (ModelArguments, DataArguments, SFTConfig),
    "reinforce_gen": (ModelArguments, DataArguments, RewardArguments, EvaluationArguments, ReinforceConfig),
    "ppo_gen": (ModelArguments, DataArguments, RewardArguments, EvaluationArguments, PPOConfig),
    "evaluate_gen": (ModelArguments, DataArguments, EvaluationArguments, ComparisonArguments),
    "train_classifier": (LabelArguments, TrainingArguments),
    "train_reward_model": (ModelArguments, PreferenceArguments, RewardConfig),
}

TRAINING = {
    "max_steps": "1",
    "per_device_train_batch_size": "4",
    "output_dir": "out",
    "report_to": "none",
    "disable_tqdm": "true",
    "save_strategy": "no",
}
ROWS = [{"prompt": f"{a} {b}", "references": ["c d e"]} for a in "abc" for b in "de"]
LABELLED = [{"text": f"{a} {b}", "label": "yes" if a == "a" else "no"} for a in "abc" for b in "def"] * 3
PAIRS = [{"prompt": f"{a} {b}", "chosen": "c d", "rejected": "e"} for a in "abcd" for b in "efg"]

NUMBERS = ["0", "-1", "1", "2", "3", "0.5", "1e-9", "1e30", "9" * 25, "nan", "inf", "-inf", "-0.0"]
TEXTS = ["", " ", "no", "no such", "./no/such", "é", "\udcff", "{", "{}", "[]", "[1, 2]", '{"a": 1}', "null", "-", "--"]
TEXTS += ["a" * 300, "{prompt}", "{0}", "a:b", "a=b", "%s", "/dev/null", "steps", "epoch", "bleu", "true", "rows.jsonl"]
OBJECTS = [None, True, False, 0, -1, 3, 10**30, 0.5, float("nan"), float("inf"), "", "no", "steps", [], [""], [None]]
OBJECTS += [[1, "a"], [[1]], [{}], {}, {"a": 1}, {1: 2}, {"a": {"b": [None]}}, ["a", "a"], "1e-4", "\0"]

# What would compute, fork, allocate or wait without end is no matter of refusing.
BOUNDED = {
    "max_steps": ["0", "-1", "nan", "a", "1.5", ""],
    "num_train_epochs": NUMBERS,
    "num_beams": ["0", "-1", "2", "a", "1.5", "nan"],
    "num_samples": ["0", "-1", "2", "a", "1.5"],
    "lora_r": ["0", "-1", "1", "2", "a", "nan"],
    "dataloader_num_workers": ["-1", "1", "a"],
    "dataset_num_proc": ["-1", "0", "1", "a"],
    "torch_compile": ["a", "0"],
    "torch_compile_backend": [],
    "torch_compile_mode": [],
    "max_position_embeddings": [],
    "resume_from_checkpoint": [*TEXTS, "True", "true"],
    "num_generations_eval": NUMBERS,
    "use_vllm": ["a", "false", "true"],
}


def members(hint: Any) -> tuple[Any, ...]:
    """Returns the types that a hint allows."""
    return get_args(hint) or (hint,)


def texts_for(name: str, hint: Any, default: Any) -> list[str]:
    """Returns what may be written for an argument on a command line: values of its kind, extremes and nonsense."""
    if name in BOUNDED:
        return BOUNDED[name]
    kinds = members(hint)
    found = [str(default)] if isinstance(default, int | float | str) else []
    if get_origin(hint) is Literal:
        found += [str(choice) for choice in kinds]
    if hasattr(hint, "__members__"):
        found += [str(member.value) for member in hint]
    if int in kinds or float in kinds:
        found += NUMBERS
    if bool in kinds:
        found += ["true", "false"]
    if not found or str in kinds or dict in kinds:
        found += TEXTS
    return found


def arguments_of(recipe: str) -> dict[str, tuple[Any, Any]]:
    """Returns the type and the default of each argument of a recipe."""
    hints = {name: hint for kind in KINDS[recipe] for name, hint in get_type_hints(kind).items()}
    return {field.name: (hints[field.name], field.default) for kind in KINDS[recipe] for field in fields(kind)}


def usual(recipe: str, model: str) -> dict[str, str]:
    """Returns the arguments of a run that works, on the files of [`write_rows`]."""
    if recipe == "evaluate_gen":
        return {"model_name_or_path": model, "dataset_name": "rows.jsonl", "max_new_tokens": "4", "eval_rows": "2"}
    if recipe == "train_classifier":
        return {**TRAINING, "dataset_name": "labelled.jsonl"}
    common = {**TRAINING, "model_name_or_path": model}
    if recipe == "train_reward_model":
        return {**common, "dataset_name": "pairs.jsonl"}
    common |= {"dataset_name": "rows.jsonl", "eval_rows": "2"}
    rewarded = {"rewards": "edit_similarity", "max_completion_length": "4", "num_samples_shown": "1"}
    return common if recipe == "sft" else common | rewarded


def write_rows(folder: Path) -> None:
    """Writes the data that [`usual`] names."""
    for name, rows in (("rows", ROWS), ("labelled", LABELLED), ("pairs", PAIRS)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def draw_arguments(recipe: str, model: str, folder: Path, draw: random.Random) -> list[str]:
    """Returns a command line with one to three strange arguments, in a YAML file or not."""
    known = arguments_of(recipe)
    names = draw.sample(list(known), draw.choice([1, 1, 1, 2, 3]))
    given = usual(recipe, model)
    if draw.random() < 0.25:
        config = {name: draw.choice(OBJECTS) for name in names if name not in BOUNDED}
        given = {name: value for name, value in given.items() if name not in config}
        (folder / "fuzz.yaml").write_text(yaml.safe_dump(config, allow_unicode=True))
        return ["--config", "fuzz.yaml", *(f"--{name}={value}" for name, value in given.items())]
    for name in names:
        if name not in BOUNDED and draw.random() < 0.05:
            given[name] = draw.choice([*TEXTS, *NUMBERS])
        elif texts := texts_for(name, *known[name]):
            given[name] = draw.choice(texts)
    return [f"--{name}={value}" for name, value in given.items()]


__all__ = ["Callable", "NoneType", "shutil"]
