"""Arguments of rows: prompts, labelled texts, pairs."""

from dataclasses import dataclass
from typing import Literal

from lmrl.settings import Settings, check_unread, is_given
from lmrl.utils import check_at_least, option


@dataclass
class EvalRowArguments(Settings):
    """Held-out rows with any columns."""

    _argument_group_name = "Data"

    dataset_name: str = option(
        "", "Rows: a .json, .jsonl, .csv, .tsv or .parquet file, a folder of such files, or a hub id."
    )
    eval_dataset_name: str | None = option(None, "Held-out rows, like dataset_name. Default: its test split.")
    dataset_config: str | None = option(None, "Configuration (subset) of a hub dataset.")
    column_names: list[str] | None = option(None, "Columns of .csv or .tsv without a header.")
    dataset_test_split: str | None = option(
        None, "Split to evaluate on; never trained on. Default: test, or else validation."
    )
    eval_rows: int | None = option(
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
    """Training rows and held-out rows with any columns."""

    dataset_train_split: str = option("train", "Split to train on.")
    max_train_rows: int | None = option(None, "Number of rows to train on, the first ones. Default: all.")
    eval_split_seed: int | None = option(
        None, "Seed that chooses rows split off. The run's seed does not move them. Default: 42."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, max_train_rows=self.max_train_rows)


@dataclass
class HeldOutArguments(EvalRowArguments):
    """Held-out prompts, and how rows become prompts."""

    dataset_name: str = option(
        "demo",
        "Rows: demo, a file, a folder, a hub id. Files are .json, .jsonl, .csv, .tsv or .parquet; "
        "those in a folder are named after their splits.",
    )
    prompt_template: str | None = option(None, "Prompt of columns, for example {name} ->.")
    prompt_column: str = option("prompt", "Column with the prompt. Text or chat messages.")
    reference_column: str | None = option(
        None,
        "Column with the references. One text or a list; BLEU, ROUGE and the like compare with it. Default: "
        "`references`, if there is one.",
    )
    chat: bool = option(False, "Turn text prompts into chats. The model needs a chat template.")
    system_prompt: str | None = option(None, "System message at the beginning of each chat. Implies chat.")
    max_prompt_length: int | None = option(
        None, "Maximum number of tokens of a prompt. Default: the model's context without the completion."
    )
    long_prompts: Literal["error", "drop", "cut", "cut_end"] = option(
        "error",
        "What to do with longer prompts. error: do not start; drop: drop the rows; cut: cut off the beginning of the "
        "text; cut_end: cut off its end.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, max_prompt_length=self.max_prompt_length)
        if self.system_prompt is not None and not self.chat and is_given(self, "chat"):
            raise ValueError(
                f"`chat` must be true with `system_prompt`, which makes chats, got {self.chat}. Leave out either."
            )
        if self.prompt_template is not None:
            check_unread(self, ("prompt_column",), "prompt_template", "with")


@dataclass
class DataArguments(HeldOutArguments, RowArguments):
    """Prompts to train on, held-out prompts, and how rows become prompts."""


@dataclass
class LabelArguments(RowArguments):
    """Labelled texts to train a classifier on."""

    text_column: str = option("text", "Column with the text.")
    label_column: str = option("label", "Column with the label.")
    class_names: list[str] | None = option(
        None, "Names of the labels, in their order. Default: the labels themselves."
    )


@dataclass
class PreferenceArguments(RowArguments):
    """Pairs of a better and a worse completion, or graded texts from which pairs are made."""

    prompt_template: str | None = option(None, "Prompt made of columns, for example `Describe {name}:`.")
    prompt_column: str = option("prompt", "Column with the prompt, without a template.")
    text_column: str | None = option(
        None, "Column with a graded text. Default: rows are pairs, with `chosen` and `rejected`."
    )
    grade_columns: list[str] | None = option(None, "Columns with the grades of a text, which are averaged.")
    min_grade_difference: float = option(0.0, "Least difference of the grades of a pair.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(0, min_grade_difference=self.min_grade_difference)
        if self.prompt_template is not None:
            check_unread(self, ("prompt_column",), "prompt_template", "with")
        if not self.grade_columns:
            check_unread(self, ("min_grade_difference",), "grade_columns")
