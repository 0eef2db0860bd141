"""
What the recipes can be told, on the command line or in a YAML file.

Every field says in its `help` what it does, beside its default; `--help` of a recipe prints them.
"""

import argparse
import importlib.util
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trl import ModelConfig


def reward_spec(text: str) -> str | dict[str, Any]:
    """
    Returns a reward as it is written on a command line: a name, or JSON with the name and what it is made with.

    Args:
        text (`str`):
            `bleu` or `{"length": {"target": 20}}`.

    Returns:
        `str` or `dict[str, Any]`.

    Raises:
        argparse.ArgumentTypeError: If the text begins as JSON and is none.
    """
    if not text.lstrip().startswith("{"):
        return text
    try:
        return dict(json.loads(text))
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not valid JSON ({error}): quote it in '...'") from error


# The parser takes the type of a list's items as the function that reads one, so at run time this is that function.
if TYPE_CHECKING:
    RewardSpec = str | dict[str, Any]
else:
    RewardSpec = reward_spec


def _option(default: Any, meaning: str) -> Any:
    """Returns a field of a dataclass with what `--help` says of it."""
    return field(default=default, metadata={"help": meaning})


def _check_at_least(least: int, **values: float | None) -> None:
    """Refuses values under `least`; None is no value."""
    for name, value in values.items():
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}, but must be at least {least}")


def _check_dataset(name: str) -> None:
    """Refuses no name: what a classifier or a reward model learns has no default."""
    if not name:
        raise ValueError("dataset_name is not given: name a file, a folder or a hub id")


def _check_specs(name: str, specs: Iterable[str | dict[str, Any]]) -> None:
    """Refuses what is neither a name nor a mapping with one key."""
    for spec in specs:
        if not (isinstance(spec, str) and spec) and not (isinstance(spec, dict) and len(spec) == 1):
            raise ValueError(f'{name} has {spec!r}, but each must be a name, or a name with options: {{"name": {{}}}}')


@dataclass
class ModelArguments(ModelConfig):
    """The model to train: TRL's [`~trl.ModelConfig`] with defaults for reinforcement learning."""

    model_name_or_path: str | None = _option(
        None, "Model to start from: folder or hub id. Default: lmrl's demo model."
    )
    lora_dropout: float = _option(
        0.0,
        "Dropout of the LoRA layers. Anything over 0 makes the policy that is trained another one than the "
        "policy that wrote the completions.",
    )

    merge: bool = _option(
        False,
        "After training with LoRA, also write the adapter merged into its base: a plain model in the folder `merged` "
        "inside output_dir.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.load_in_8bit:
            raise ValueError(
                "load_in_8bit is set, but in 8 bits the model that is trained is not the one that is sampled: take "
                "load_in_4bit"
            )
        if self.load_in_4bit and importlib.util.find_spec("bitsandbytes") is None:
            raise ValueError("load_in_4bit needs bitsandbytes, which is not installed: install lmrl[quantization]")
        if self.merge and not self._has_adapter:
            raise ValueError(
                "merge is set, but there will be no adapter to merge: add use_peft, or start from an adapter"
            )

    @property
    def _has_adapter(self) -> bool:
        return self.use_peft or Path(self.model_name_or_path or "", "adapter_config.json").is_file()

    def loading(self, to_train: bool = True) -> dict[str, Any]:
        """
        Returns how weights are loaded, as `from_pretrained` takes it: precision, attention, quantisation.

        Args:
            to_train (`bool`, *optional*, defaults to `True`):
                Whether the model is to be trained: quantised weights are not, only an adapter on them.
        """
        whole = {"dtype": self.dtype, "attn_implementation": self.attn_implementation}
        if not self.load_in_4bit:
            return whole
        if to_train and not self._has_adapter:
            raise ValueError(
                "load_in_4bit is set, but quantised weights cannot be trained: add use_peft, or start from an adapter"
            )
        from trl import get_quantization_config  # it imports torch

        return {**whole, "quantization_config": get_quantization_config(self)}


@dataclass
class RowArguments:
    """Rows to train on and rows held out, whatever is in them."""

    dataset_name: str = _option(
        "", "Rows: a .json, .jsonl, .csv, .tsv or .parquet file, a folder of such files, or a hub id."
    )
    dataset_config: str | None = _option(None, "Configuration (subset) of a hub dataset.")
    dataset_train_split: str = _option("train", "Split to train on.")
    dataset_test_split: str = _option("test", "Split to evaluate on; never trained on.")
    max_train_rows: int | None = _option(None, "Train on the first so many rows only, for a quick try. Default: all.")
    eval_rows: int | None = _option(
        None, "Held-out rows: the first so many of the test split or, where there is none, so many split off."
    )

    def __post_init__(self) -> None:
        _check_dataset(self.dataset_name)
        _check_at_least(1, max_train_rows=self.max_train_rows, eval_rows=self.eval_rows)


@dataclass
class DataArguments(RowArguments):
    """Prompts to train on, held-out prompts, and how rows become prompts."""

    dataset_name: str = _option(
        "demo",
        "Rows to train on: `demo` (inside lmrl), a .json, .jsonl, .csv, .tsv or .parquet file, a folder of "
        "such files named after their splits, or a hub id.",
    )
    eval_dataset_name: str | None = _option(None, "Held-out rows, written as dataset_name. Default: its test split.")
    column_names: list[str] | None = _option(None, "Columns of .csv and .tsv files that have no header.")
    prompt_template: str | None = _option(None, "Prompt made of columns, for example `Describe {name}:`.")
    prompt_column: str = _option("prompt", "Column with the prompt (text or chat messages), without a template.")
    reference_column: str | None = _option(
        None,
        "Column with the reference text, or a list of them, that BLEU, ROUGE and the like compare with. "
        "Default: `references`, if there is one.",
    )
    chat: bool = _option(False, "Make a chat of every text prompt; the model needs a chat template.")
    system_prompt: str | None = _option(None, "System message that every chat begins with. Implies chat.")
    max_prompt_length: int | None = _option(None, "Tokens that a prompt may have. Default: what the model can take.")
    long_prompts: Literal["error", "drop", "cut", "cut_end"] = _option(
        "error", "Longer prompts: refuse to start, drop these rows, cut off the beginning of the text, or its end."
    )
    eval_rows: int | None = _option(
        None,
        "Held-out rows: the first so many of the test split (default: all of it) or, where there is no "
        "test split, so many split off from the training rows.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_at_least(1, max_prompt_length=self.max_prompt_length)


@dataclass
class RewardArguments:
    """What a completion is rewarded for. Several rewards are added up, weighted by TRL's `reward_weights`."""

    rewards: list[RewardSpec] = field(
        default_factory=lambda: ["bleu", "rougeL"],
        metadata={
            "help": 'Rewards by name, with options as JSON: `--rewards bleu \'{"length": {"target": 20}}\'`; in YAML '
            "`- bleu` and `- length: {target: 20}`. Their weights are --reward_weights, in the same order."
        },
    )

    def __post_init__(self) -> None:
        if not self.rewards:
            raise ValueError("rewards is empty, but there must be at least one: name one, for example bleu")
        _check_specs("rewards", self.rewards)


@dataclass
class EvaluationArguments:
    """How held-out rows are completed and measured; no field is named like one of a trainer's configuration."""

    metrics: list[RewardSpec] | None = _option(
        None,
        "Measured besides the rewards, and written like them. What was not rewarded shows whether the "
        "reward was learned or gamed.",
    )
    max_new_tokens: int | None = _option(None, "Tokens of a completion at most. Default: as in training, or 64.")
    do_sample: bool = _option(False, "Sample completions. Default: greedy, so no luck in it.")
    num_beams: int = _option(1, "Beams of a beam search; 1 is none.")
    batch_size: int = _option(32, "Prompts completed at a time: memory, not results.")
    perplexity_model: str | None = _option(None, "Another language model (folder or hub id), which measures fluency.")
    eval_rows_in_training: int = _option(
        100, "Held-out rows, the first ones, that are measured at each evaluation during training (eval_strategy)."
    )
    num_samples_shown: int = _option(5, "Completions printed at the end.")
    results_dir: str | None = _option(None, "Folder for a JSON file per checkpoint. Default: the output folder.")

    def __post_init__(self) -> None:
        _check_at_least(1, max_new_tokens=self.max_new_tokens, num_beams=self.num_beams, batch_size=self.batch_size)
        _check_at_least(1, eval_rows_in_training=self.eval_rows_in_training)
        _check_at_least(0, num_samples_shown=self.num_samples_shown)
        _check_specs("metrics", self.metrics or [])

    def decoding(self, max_new_tokens: int) -> dict[str, Any]:
        """Returns how completions are made, as [`~lmrl.evaluation.evaluate_model`] takes it; with a default length."""
        return {
            "max_new_tokens": self.max_new_tokens or max_new_tokens,
            "do_sample": self.do_sample,
            "num_beams": self.num_beams,
            "batch_size": self.batch_size,
        }


@dataclass
class ComparisonArguments:
    """The checkpoints that `evaluate_gen.py` compares, and what a trainer's configuration says elsewhere."""

    checkpoints: list[str] | None = _option(
        None,
        "Checkpoints to compare, as `path` or `name=path`; the others are tested against the first. "
        "Default: model_name_or_path alone.",
    )
    outputs: list[str] | None = _option(
        None,
        "Texts of other systems to compare with, as `name=file`: a text file with one per line in the order of the "
        'rows, or .jsonl with {"id": ..., "completion": ...}.',
    )
    datasets: list[str] | None = _option(
        None, "Several data sets, as `name=path`, written as dataset_name. Default: dataset_name alone."
    )
    num_samples: int = _option(1, "Completions of a prompt; more than 1 needs do_sample.")
    temperature: float = _option(1.0, "Temperature of sampling, with do_sample.")
    seed: int = _option(42, "Seed of sampling, with do_sample.")

    def __post_init__(self) -> None:
        _check_at_least(1, num_samples=self.num_samples)
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}, but must be over 0: without do_sample it is greedy")

    def sampling(self) -> dict[str, Any]:
        """Returns how completions are drawn, as [`~lmrl.evaluation.evaluate_model`] takes it."""
        return {"num_samples": self.num_samples, "temperature": self.temperature, "seed": self.seed}


@dataclass
class LabelArguments(RowArguments):
    """Labelled texts to make a classifier of."""

    column_names: list[str] | None = _option(None, "Columns of .csv and .tsv files that have no header.")
    text_column: str = _option("text", "Column with the text.")
    label_column: str = _option("label", "Column with the label.")
    class_names: list[str] | None = _option(
        None, "Names of the labels, in their order. Default: the labels themselves."
    )


@dataclass
class PreferenceArguments(RowArguments):
    """Pairs of a better and a worse completion, or graded texts that pairs are made of."""

    prompt_template: str | None = _option(None, "Prompt made of columns, for example `Describe {name}:`.")
    prompt_column: str = _option("prompt", "Column with the prompt, without a template.")
    text_column: str | None = _option(
        None, "Column with a text that is graded. Default: rows are pairs, with `chosen` and `rejected`."
    )
    grade_columns: list[str] | None = _option(None, "Columns with the grades of a text, which are averaged.")
    min_grade_difference: float = _option(0.0, "Texts whose grades are closer make no pair.")
    eval_rows: int | None = _option(
        None,
        "Held-out rows (not pairs): the first so many of the test split or, where there is none, so many split off, "
        "whole prompts.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_at_least(0, min_grade_difference=self.min_grade_difference)
