"""
Arguments of the recipes, on the command line or in a YAML file.

The `help` of each field is printed by `--help`, where its first sentence must stand alone.
"""

import argparse
import importlib.util
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from trl import ModelConfig

from lmrl.utils import check_at_least, json_object, labelled, shorten


def reward_spec(text: str) -> str | dict[str, Any]:
    """Returns a reward from a command line: `bleu`, or JSON with options such as `{"length": {"target": 20}}`."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        return dict(json.loads(text))
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"must be valid JSON, got {text!r} ({error}). Quote it in '...'.") from error


# The parser calls the type of a list's items to read each, so at run time the type is that function.
if TYPE_CHECKING:
    RewardSpec = str | dict[str, Any]
else:
    RewardSpec = reward_spec


def _option(default: Any, description: str) -> Any:
    """Returns a field of a dataclass with its sentences for `--help`, which prints the first, `--help all` all."""
    return field(default=default, metadata={"help": description})


def _check_specs(name: str, specs: Iterable[str | dict[str, Any]]) -> None:
    """Raises an error for a reward that is neither a name nor a mapping with one key."""
    for spec in specs:
        if not (isinstance(spec, str) and spec) and not (isinstance(spec, dict) and len(spec) == 1):
            raise ValueError(
                f'`{name}` must have names, or names with options such as {{"name": {{}}}}, got {shorten(spec)}.'
            )


def _check_unread(arguments: Any, names: Iterable[str], other: str, relation: str = "without") -> None:
    """Raises an error for the first field that is set, where another argument makes it one that nothing reads."""
    for name in names:
        value = getattr(arguments, name)
        if value != type(arguments).__dataclass_fields__[name].default:
            raise ValueError(f"`{name}` must not be set {relation} `{other}`, got {value!r}: it would not be read.")


@dataclass
class CheckpointArguments:
    """The model to evaluate, and how checkpoints are loaded."""

    _argument_group_name = "Model"

    model_name_or_path: str | None = _option(None, "Model to evaluate: folder or hub id. Default: lmrl's demo model.")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = _option("float32", "Precision of the weights.")
    attn_implementation: str | None = _option(None, "Attention, for example flash_attention_2.")
    load_in_4bit: bool = _option(False, "Load the weights in 4 bits.")

    def loading(self) -> dict[str, Any]:
        """Returns the options of `from_pretrained` for the weights: precision, attention, quantization."""
        return _loading(ModelConfig(**{name: getattr(self, name) for name in type(self).__dataclass_fields__}))


@dataclass
class ModelArguments(ModelConfig):
    """The model to train: TRL's [`~trl.ModelConfig`] with defaults for reinforcement learning."""

    _argument_group_name = "Model"

    model_name_or_path: str | None = _option(
        None, "Model to start from: folder or hub id. Default: lmrl's demo model."
    )
    lora_dropout: float = _option(
        0.0,
        "Dropout of the LoRA layers. Above 0, the policy that is trained differs from the policy that sampled the "
        "completions.",
    )
    lora_task_type: str = field(default="CAUSAL_LM", init=False)  # of the recipe, not of the user
    merge: bool = _option(
        False,
        "Also write the adapter merged into its base. A plain model in the folder `merged` inside output_dir.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        target: Any = self.lora_target_modules
        # TRL makes a text of a list of one, for `all-linear`; PEFT takes a text for a pattern of complete names.
        if isinstance(target, str) and target.replace(".", "").isidentifier():
            self.lora_target_modules = [target]
        if self.load_in_8bit:
            raise ValueError(
                "`load_in_8bit` must be false, got true: in 8 bits the model that is trained is not the one that is "
                "sampled. Use `load_in_4bit`."
            )
        has_adapter = self.use_peft or Path(self.model_name_or_path or "", "adapter_config.json").is_file()
        for name, reason in (("merge", ""), ("load_in_4bit", ": quantized weights cannot be trained")):
            if getattr(self, name) and not has_adapter:
                raise ValueError(
                    f"`{name}` must be used with an adapter, got none{reason}. Add `use_peft`, or start from one."
                )
        if not self.use_peft:
            _check_unread(self, [name for name in vars(self) if "lora" in name or name == "use_dora"], "use_peft")
        if not self.load_in_4bit:
            _check_unread(self, [name for name in vars(self) if "bnb_" in name], "load_in_4bit")

    def loading(self, bf16: bool = False) -> dict[str, Any]:
        """Returns the options as above; `bf16`: products with quantized weights are in bfloat16, not in `dtype`."""
        return _loading(self, bf16)


def _loading(model_args: ModelConfig, bf16: bool = False) -> dict[str, Any]:
    options = {"dtype": model_args.dtype, "attn_implementation": model_args.attn_implementation}
    if not model_args.load_in_4bit:
        return options
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError("`load_in_4bit` needs bitsandbytes, which is not installed. Install lmrl[quantization].")
    from trl import get_quantization_config  # imports torch

    own = replace(model_args, dtype="bfloat16") if bf16 else model_args
    return {**options, "quantization_config": get_quantization_config(own)}


@dataclass
class EvalRowArguments:
    """Held-out rows, whatever their columns are."""

    _argument_group_name = "Data"

    dataset_name: str = _option(
        "", "Rows: a .json, .jsonl, .csv, .tsv or .parquet file, a folder of such files, or a hub id."
    )
    dataset_config: str | None = _option(None, "Configuration (subset) of a hub dataset.")
    column_names: list[str] | None = _option(None, "Columns of .csv or .tsv without a header.")
    dataset_test_split: str = _option("test", "Split to evaluate on; never trained on.")
    eval_rows: int | None = _option(
        None,
        "Number of held-out rows. They are the first ones of the test split (default: all of it) or, where there is "
        "no test split, are split off from the training rows.",
    )

    def __post_init__(self) -> None:
        if not self.dataset_name:
            raise ValueError(f"`dataset_name` must be a file, a folder or a hub id, got {self.dataset_name!r}.")
        check_at_least(1, eval_rows=self.eval_rows)


@dataclass
class RowArguments(EvalRowArguments):
    """Rows to train on and rows held out, whatever their columns are."""

    dataset_train_split: str = _option("train", "Split to train on.")
    max_train_rows: int | None = _option(None, "Number of rows to train on, the first ones. Default: all.")
    eval_split_seed: int = _option(42, "Seed that chooses rows split off. The run's seed does not move them.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, max_train_rows=self.max_train_rows)


@dataclass
class HeldOutArguments(EvalRowArguments):
    """Held-out prompts, and how rows become prompts."""

    dataset_name: str = _option(
        "demo",
        "Rows: demo, a file, a folder, a hub id. Files are .json, .jsonl, .csv, .tsv or .parquet; "
        "those in a folder are named after their splits.",
    )
    eval_dataset_name: str | None = _option(None, "Held-out rows, like dataset_name. Default: its test split.")
    prompt_template: str | None = _option(None, "Prompt of columns, for example {name} ->.")
    prompt_column: str = _option("prompt", "Column with the prompt. Text or chat messages.")
    reference_column: str | None = _option(
        None,
        "Column with the references. One text or a list; BLEU, ROUGE and the like compare with it. Default: "
        "`references`, if there is one.",
    )
    chat: bool = _option(False, "Turn text prompts into chats. The model needs a chat template.")
    system_prompt: str | None = _option(None, "System message at the beginning of each chat. Implies chat.")
    max_prompt_length: int | None = _option(
        None, "Maximum number of tokens of a prompt. Default: the model's context without the completion."
    )
    long_prompts: Literal["error", "drop", "cut", "cut_end"] = _option(
        "error",
        "What to do with longer prompts. error: do not start; drop: drop the rows; cut: cut off the beginning of the "
        "text; cut_end: cut off its end.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, max_prompt_length=self.max_prompt_length)
        if self.prompt_template is not None:
            _check_unread(self, ("prompt_column",), "prompt_template", "with")


@dataclass
class DataArguments(HeldOutArguments, RowArguments):
    """Prompts to train on, held-out prompts, and how rows become prompts."""


@dataclass
class RewardArguments:
    """Rewards of a completion. Several are added up, weighted by TRL's `reward_weights`."""

    _argument_group_name = "Rewards"

    rewards: list[RewardSpec] = field(
        default_factory=lambda: ["bleu", "rougeL"],
        metadata={
            "help": 'Rewards by name. With options as JSON: `--rewards bleu \'{"length": {"target": 20}}\'`. In YAML '
            "`- bleu` and `- length: {target: 20}`. Their weights are --reward_weights, in the same order."
        },
    )

    def __post_init__(self) -> None:
        if not self.rewards:
            raise ValueError("`rewards` must have at least one, got none. Add one, for example bleu.")
        _check_specs("rewards", self.rewards)


@dataclass
class ScoringArguments:
    """How held-out rows are completed and scored."""

    _argument_group_name = "Evaluation"
    # Former names, which `lmrl.cli.parse` still accepts with a warning.
    _old_names: ClassVar[dict[str, str]] = {
        "batch_size": "eval_batch_size",
        "do_sample": "eval_do_sample",
        "eval_rows_in_training": "eval_subset",
        "max_new_tokens": "eval_max_new_tokens",
        "metrics": "eval_metrics",
        "num_beams": "eval_num_beams",
        "num_samples_shown": "eval_num_completions_to_print",
        "perplexity_model": "eval_perplexity_model",
        "results_dir": "eval_output_dir",
    }

    eval_metrics: list[RewardSpec] | None = _option(
        None,
        "Metrics besides the rewards, written like them. A metric that was not rewarded shows whether the reward was "
        "learned or gamed.",
    )
    eval_batch_size: int = _option(32, "Prompts completed at a time. It affects memory, not results.")
    eval_max_new_tokens: int | None = _option(
        None, "Maximum number of tokens of a completion. Default: as in training, or 64."
    )
    eval_do_sample: bool = _option(False, "Sample completions instead of greedy decoding.")
    eval_num_beams: int = _option(1, "Beams of a beam search; 1 is none.")
    eval_perplexity_model: str | None = _option(
        None,
        "Model for the perplexity: folder or hub id. Default: the model that training starts "
        "from, or the first checkpoint.",
    )
    eval_num_completions_to_print: int = _option(5, "Completions printed at the end.")
    eval_output_dir: str | None = _option(None, "Folder of the scores and the report. Default: output_dir.")

    def __post_init__(self) -> None:
        check_at_least(
            1,
            eval_batch_size=self.eval_batch_size,
            eval_max_new_tokens=self.eval_max_new_tokens,
            eval_num_beams=self.eval_num_beams,
        )
        check_at_least(0, eval_num_completions_to_print=self.eval_num_completions_to_print)
        _check_specs("eval_metrics", self.eval_metrics or [])

    def decoding(self, max_new_tokens: int) -> dict[str, Any]:
        """Returns the options of decoding, with a default for the length."""
        return {
            "max_new_tokens": self.eval_max_new_tokens or max_new_tokens,
            "do_sample": self.eval_do_sample,
            "num_beams": self.eval_num_beams,
            "batch_size": self.eval_batch_size,
        }


@dataclass
class EvaluationArguments(ScoringArguments):
    """How held-out rows are completed and scored, before, during and after training."""

    eval_subset: int = _option(100, "Rows scored during training. The first held-out ones; eval_strategy sets when.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, eval_subset=self.eval_subset)


@dataclass
class ComparisonArguments:
    """Checkpoints and texts that `evaluate_gen.py` compares, and how it samples."""

    _old_names: ClassVar[dict[str, str]] = {name: f"eval_{name}" for name in ("num_samples", "seed", "temperature")}

    checkpoints: list[str] | None = _option(
        None,
        "Checkpoints to compare, as `path` or `label=path`. The others are tested against the first. Default: "
        "model_name_or_path alone.",
    )
    outputs: list[str] | None = _option(
        None,
        "Texts of other systems to compare with, as `label=file`. A text file with one per line in the order of the "
        'rows, or .jsonl with {"id": ..., "completion": ...}.',
    )
    datasets: list[str] | None = _option(
        None, "Several data sets, as `label=path`, written like dataset_name. Default: dataset_name alone."
    )
    eval_num_samples: int = _option(1, "Completions per prompt; more than 1 needs eval_do_sample.")
    eval_temperature: float = _option(1.0, "Temperature of sampling, with eval_do_sample.")
    eval_seed: int = _option(42, "Seed of sampling, with eval_do_sample.")
    chat_template_kwargs: dict[str, Any] | str | None = _option(
        None, 'Variables of the chat template, as in training. As JSON: {"enable_thinking": false}.'
    )

    def __post_init__(self) -> None:
        check_at_least(1, eval_num_samples=self.eval_num_samples)
        if isinstance(self.chat_template_kwargs, str):
            self.chat_template_kwargs = json_object("chat_template_kwargs", self.chat_template_kwargs)
        if not self.eval_temperature > 0:
            raise ValueError(
                f"`eval_temperature` must be above 0, got {self.eval_temperature}. Greedy decoding is without "
                "`eval_do_sample`."
            )

    def systems(self, model: str | None, default: str) -> tuple[dict[str, str], dict[str, str]]:
        """
        Returns the paths of the checkpoints and those of the files of texts, by label.

        Without `checkpoints` it is `model` alone, and where nothing else is given, `default`.

        Raises:
            ValueError: If two of them have the same label.
        """
        alone = model or (None if self.outputs else default)
        checkpoints = labelled("checkpoints", self.checkpoints or ([alone] if alone else []))
        return checkpoints, labelled("outputs", self.outputs or [], taken=checkpoints)

    def sampling(self, do_sample: bool) -> dict[str, Any]:
        """Returns the options of sampling, which greedy decoding refuses, and the variables of the chat template."""
        if not do_sample:
            _check_unread(self, ("eval_num_samples", "eval_temperature", "eval_seed"), "eval_do_sample")
        sampling = {"num_samples": self.eval_num_samples, "temperature": self.eval_temperature, "seed": self.eval_seed}
        return {**sampling, "chat_template_kwargs": self.chat_template_kwargs}


@dataclass
class LabelArguments(RowArguments):
    """Labelled texts to train a classifier on."""

    text_column: str = _option("text", "Column with the text.")
    label_column: str = _option("label", "Column with the label.")
    class_names: list[str] | None = _option(
        None, "Names of the labels, in their order. Default: the labels themselves."
    )


@dataclass
class ClassifierArguments:
    """The model under a classifier."""

    _argument_group_name = "Model"

    model_name_or_path: str = _option(
        "scratch", "Model under the new head: folder, hub id or scratch. `scratch` is a small random encoder."
    )
    max_length: int = _option(128, "Maximum number of tokens of a text; longer ones are cut.")

    def __post_init__(self) -> None:
        check_at_least(1, max_length=self.max_length)


@dataclass
class PreferenceArguments(RowArguments):
    """Pairs of a better and a worse completion, or graded texts from which pairs are made."""

    prompt_template: str | None = _option(None, "Prompt made of columns, for example `Describe {name}:`.")
    prompt_column: str = _option("prompt", "Column with the prompt, without a template.")
    text_column: str | None = _option(
        None, "Column with a graded text. Default: rows are pairs, with `chosen` and `rejected`."
    )
    grade_columns: list[str] | None = _option(None, "Columns with the grades of a text, which are averaged.")
    min_grade_difference: float = _option(0.0, "Least difference of the grades of a pair.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(0, min_grade_difference=self.min_grade_difference)
        if self.prompt_template is not None:
            _check_unread(self, ("prompt_column",), "prompt_template", "with")
        if not self.grade_columns:
            _check_unread(self, ("min_grade_difference",), "grade_columns")
