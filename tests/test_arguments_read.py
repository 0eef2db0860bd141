"""
Every recipe reads each argument that it offers, or refuses it: found by running each of them once, on a few rows.

Reads of the fields are recorded. A field that nothing reads in the run must be refused where it is given, with a
sentence that names it. The fields about rows, which are passed on as keyword arguments, must change the rows.
"""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_unread_arguments import load, offered
from tiny import tiny_tokenizer

import lmrl
from lmrl.arguments import DataArguments, LabelArguments, PreferenceArguments
from lmrl.arguments.data import EvalRowArguments
from lmrl.cli.unread import check_places
from lmrl.data import load_labelled, load_pairs, load_splits
from lmrl.settings import COMMAND_LINE
from lmrl.supervised import RecipeConfig

LMRL = Path(lmrl.__file__).parent
ROWS = [
    {"prompt": f"w{a} w{b}", "references": [f"w{b} w{a}"], "text": f"w{a} w{b}", "label": "ab"[a % 2]}
    | {
        "chosen": f"w{a} w{b} w1",
        "rejected": f"w{a} w{b} w2",
        "other": f"w{b} w{a} w{b}",
        "grade": b,
        "second": -a,
        "group": "xyz"[a % 3],
    }
    for a in range(6)
    for b in range(2)
]
SHORT = (
    *("--max_steps", "1", "--per_device_train_batch_size", "4", "--report_to", "none", "--overwrite"),
    *("--eval_strategy", "steps", "--eval_steps", "1", "--save_strategy", "steps", "--output_dir", "out"),
)
SAMPLED = ("--eval_max_new_tokens", "4", "--eval_num_completions_to_print", "1", "--eval_output_dir", "scores")
BY_REWARD = (*SHORT, *SAMPLED, "--max_completion_length", "4", "--startup_checks", "false")
RECIPES = {
    "reinforce_gen": (*BY_REWARD, "--num_generations", "2", "--metric_for_best_model", "bleu"),
    "ppo_gen": (*BY_REWARD, "--metric_for_best_model", "bleu"),
    "sft": (*SHORT, *SAMPLED),
    "train_classifier": SHORT,
    "train_reward_model": SHORT,
    "evaluate_gen": SAMPLED,
}
# Reads that concern all fields, or that only compare a field with what is allowed.
NO_READS = ("to_dict", "_print", "arguments_as_json", "_asdict_inner", "replace", "check_", "_check", "is_given")
# Read by their names from a dictionary of all settings; the run below shows what they do.
SHOWN = {"overwrite", "eval_output_dir", "eval_num_completions_to_print"}
# Read where a launcher starts several processes, by a pass over all of the configuration.
OF_LAUNCHERS = {"ddp_timeout"}
# Refused in the constructors of the groups, each with a message of its own.
REFUSED_BY_GROUPS = {
    "merge": True,
    "load_in_8bit": True,
    "lora_r": 4,
    "lora_alpha": 4,
    "lora_dropout": 0.1,
    "lora_target_modules": "a",
    "lora_target_parameters": "a",
    "lora_modules_to_save": "a",
    "use_rslora": True,
    "use_dora": True,
    "bnb_4bit_quant_type": "fp4",
    "use_bnb_nested_quant": True,
    "bnb_4bit_quant_storage": "uint8",
    "kl_horizon": 5.0,
    "baseline_decay": 0.5,
    "equal_groups_tolerance": 0.5,
    "loss_type": "grpo",
    "critic_forgetting": 0.5,
    "critic_learning_rate": 0.5,
    "critic_warmup_steps": 5,
    "critic_extra_epochs": 5,
    "critic_model_name_or_path": "a",
    "vf_coef": 0.5,
    "cliprange_value": 0.5,
    "ref_model_mixup_alpha": 0.5,
    "ref_model_sync_steps": 5,
    "vllm_structured_outputs_regex": "a",
    "train_sampling_strategy": "sequential",
}


def write_rows(path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def is_read(frame: Any) -> bool:
    """Returns whether the code of a frame reads a field to use it, as the constructors of libraries do too."""
    code = frame.f_code
    path = Path(code.co_filename)
    own = LMRL in path.parents
    of_all = code.co_name.startswith("<") and path.name in ("training_args.py", "arguments.py")
    is_check = of_all or code.co_name.startswith(NO_READS) or "__repr__" in code.co_name
    return not is_check and not (own and code.co_name == "__post_init__")


def refusal(field: str, kinds: list[type], values: dict[str, Any]) -> str:
    """Returns the message about a field that is given, an empty one if it is accepted."""
    try:
        check_places({field: COMMAND_LINE}, values | {field: "x"}, values)
        owner = next(kind for kind in kinds if field in kind.__dataclass_fields__)
        options = {"report_to": "none"} if "report_to" in owner.__dataclass_fields__ else {}
        if field in REFUSED_BY_GROUPS:
            owner(**{field: REFUSED_BY_GROUPS[field]}, **options)
    except ValueError as error:
        assert str(error).startswith(f"`{field}` must "), error
        return str(error)
    return ""


@pytest.mark.parametrize("name", RECIPES)
def test_each_argument_of_a_recipe_is_read_or_refused(
    name: str, recipe: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, gpt2_path: str
) -> None:
    kinds = offered(load(name))
    fields = {field.name: field for kind in kinds for field in dataclasses.fields(kind) if field.init}
    read: set[str] = set()

    def record(made: Any, attribute: str) -> Any:
        if attribute in fields and is_read(sys._getframe(1)):
            read.add(attribute)
        return object.__getattribute__(made, attribute)

    bases = {base for kind in kinds for base in (kind, RecipeConfig) if issubclass(kind, base)}
    for base in bases:
        monkeypatch.setattr(base, "__getattribute__", record)
    data = write_rows(Path("rows.jsonl"))
    start = () if name == "train_classifier" else ("--model_name_or_path", gpt2_path)
    values: dict[str, Any] = {}
    monkeypatch.setattr("lmrl.cli.errors.PARSED", values)
    status, _, err = recipe(name, *start, "--dataset_name", data, "--eval_rows", "4", *RECIPES[name])
    assert status == 0, err
    assert not SHOWN & {*RECIPES[name]} or Path("scores", "report.html").is_file()
    of_rows = {
        field.name for kind in kinds if issubclass(kind, EvalRowArguments) for field in dataclasses.fields(kind)
    }

    unread = fields.keys() - read - of_rows - SHOWN - OF_LAUNCHERS
    monkeypatch.undo()
    offered_values = {key: field.default for key, field in fields.items()}
    accepted = [field for field in sorted(unread) if not refusal(field, kinds, offered_values)]
    assert accepted == [], "offered, neither read nor refused"


@pytest.mark.parametrize(
    ("name", "other", "read_with", "unread_with"),
    [
        ("optim_target_modules", "optim", ("apollo_adamw", "galore_adamw"), ("adalomo", "lomo")),
        (
            "warmup_steps",
            "lr_scheduler_type",
            ("linear", "constant_with_warmup"),
            ("constant", "reduce_lr_on_plateau"),
        ),
    ],
)
def test_an_argument_is_read_with_some_choices_of_another_alone(
    name: str, other: str, read_with: tuple[str, ...], unread_with: tuple[str, ...]
) -> None:
    for choice in read_with:
        check_places({name: COMMAND_LINE}, {name: 5, other: choice}, {})
    for choice in unread_with:
        with pytest.raises(ValueError, match=f"`{name}` must be left out here, got 5: it would not be read"):
            check_places({name: COMMAND_LINE}, {name: 5, other: choice}, {})


DATA = {"dataset_name": "rows.jsonl"}
GRADED = {"prompt_column": "label", "text_column": "text", "grade_columns": ["grade"]}
CHANGES: dict[str, tuple[dict[str, Any], Any]] = {
    "dataset_name": ({}, "other.jsonl"),
    "eval_dataset_name": ({}, "other.jsonl"),
    "dataset_config": ({}, "a"),
    "column_names": ({}, ["x"]),
    "dataset_train_split": ({"dataset_name": "folder"}, "dev"),
    "dataset_test_split": ({"dataset_name": "folder"}, "dev"),
    "eval_rows": ({}, 2),
    "max_train_rows": ({}, 4),
    "eval_split_seed": ({}, 5),
    "prompt_template": ({}, "{other} ->"),
    "prompt_column": ({}, "other"),
    "reference_column": ({}, "other"),
    "chat": ({}, True),
    "system_prompt": ({}, "be brief"),
    "max_prompt_length": ({"long_prompts": "cut"}, 1),
    "long_prompts": ({"max_prompt_length": 1, "long_prompts": "cut"}, "cut_end"),
    "label_column": ({}, "grade"),
    "class_names": ({}, ["x", "y"]),
    "grade_columns": (GRADED, ["second"]),
    "min_grade_difference": (GRADED, 5.0),
}
LOADERS: dict[type, Callable[..., Any]] = {
    DataArguments: lambda **options: load_splits(tiny_tokenizer(), None, **options),
    LabelArguments: load_labelled,
    PreferenceArguments: load_pairs,
}
FIELDS = [(kind, field.name) for kind in LOADERS for field in dataclasses.fields(kind)]


@pytest.mark.parametrize(("kind", "field"), FIELDS, ids=lambda part: getattr(part, "__name__", part))
def test_a_setting_of_the_rows_of_a_training_changes_them_or_is_refused(
    kind: type, field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name in ("rows.jsonl", "folder/train.jsonl", "folder/dev.jsonl", "folder/test.jsonl", "other.jsonl"):
        write_rows(tmp_path / name)
    lines = (tmp_path / "rows.jsonl").read_text().splitlines(keepends=True)
    for name, part in (("folder/dev.jsonl", lines[:6]), ("other.jsonl", lines[2:8])):
        (tmp_path / name).write_text("".join(part))
    start, value = CHANGES.get(field, ({}, None))
    if field == "text_column":
        start, value = ({}, "other") if kind is LabelArguments else (GRADED, "other")
    if field == "prompt_column" and kind is PreferenceArguments:
        start, value = GRADED, "group"

    def rows(**changes: Any) -> Any:
        settings = vars(kind(**{**DATA, **start, **changes}))
        return [part if isinstance(part, list) else part.to_list() for part in LOADERS[kind](**settings)]

    before = rows()
    try:
        after = rows(**{field: value})
    except ValueError as error:
        assert field in ("dataset_config", "column_names", "min_grade_difference"), error
        assert "`" in str(error)
    else:
        assert after != before
