"""The rows to train on and the rows held out, from the settings of a recipe."""

from typing import TYPE_CHECKING, Any, Literal

from .prompts import fit_prompts, load_prompts, split_held_out
from .sources import splits_of

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


def load_held_out(
    *,
    dataset_name: str = "demo",
    dataset_test_split: str = "test",
    eval_dataset_name: str | None = None,
    eval_rows: int | None = None,
    **settings: Any,
) -> "Dataset":
    """
    Returns the rows that a checkpoint is scored on: `eval_dataset_name`, or the test split of the dataset.

    A single file is taken whole, whatever it is called.

    Args:
        **settings:
            The fields of [`~lmrl.arguments.DataArguments`]; those about training and lengths are not read.

    Raises:
        FileNotFoundError: If there is nothing by that name.
        ValueError: If there is no such split, or rows cannot be read.
    """
    source = eval_dataset_name or dataset_name
    names = ("dataset_config", "prompt_template", "prompt_column", "reference_column", "chat", "system_prompt")
    columns = {name: settings[name] for name in names if name in settings}
    split = "train" if _is_one_file(source, columns.get("dataset_config")) else dataset_test_split
    return load_prompts(source, split=split, max_rows=eval_rows, **columns)


def _is_one_file(source: str, config: str | None) -> bool:
    return source != "demo" and splits_of(source, config) == {"train"}


def load_splits(
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int | None,
    *,
    dataset_name: str = "demo",
    dataset_train_split: str = "train",
    eval_dataset_name: str | None = None,
    max_prompt_length: int | None = None,
    long_prompts: Literal["error", "drop", "cut"] = "error",
    max_train_rows: int | None = None,
    eval_rows: int | None = None,
    seed: int = 0,
    dataset_test_split: str = "test",
    **columns: Any,
) -> "tuple[Dataset, Dataset]":
    """
    Returns the rows to train on and the held-out rows, all of whose prompts fit.

    Held out are `eval_dataset_name`, or else the test split of the dataset, or else its validation split, or else
    `eval_rows` (100 by default) rows split off from the training rows.

    Args:
        tokenizer (`transformers.PreTrainedTokenizerBase`):
            Tokenizer of the policy, which measures the prompts.
        max_length (`int`, *optional*):
            Tokens that a prompt may have so that its completion still fits the context.
        **columns:
            The further fields of [`~lmrl.arguments.DataArguments`], under the same names.

    Returns:
        `tuple[datasets.Dataset, datasets.Dataset]`

    Raises:
        FileNotFoundError: If there is nothing by that name.
        ValueError: If rows cannot be read, or prompts are too long and `long_prompts` is `"error"`.
    """
    train = load_prompts(dataset_name, split=dataset_train_split, **columns)
    present = {"train", "test"} if dataset_name == "demo" else splits_of(dataset_name, columns.get("dataset_config"))
    test_split = next((split for split in (dataset_test_split, "validation", "dev") if split in present), None)
    if eval_dataset_name is not None or test_split is not None:
        held_out = load_held_out(
            dataset_name=dataset_name,
            dataset_test_split=test_split or dataset_test_split,
            eval_dataset_name=eval_dataset_name,
            eval_rows=eval_rows,
            **columns,
        )
    else:
        train, held_out = split_held_out(train, min(eval_rows or 100, len(train) // 2), seed)
    train = train.select(range(min(max_train_rows or len(train), len(train))))
    limits = [limit for limit in (max_prompt_length, max_length) if limit is not None]
    if limits:
        train = fit_prompts(train, tokenizer, min(limits), long_prompts)
        held_out = fit_prompts(held_out, tokenizer, min(limits), long_prompts)
    return train, held_out
