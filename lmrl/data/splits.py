"""The rows to train on and the rows held out, from the settings of a recipe."""

from typing import TYPE_CHECKING, Any, Literal

from .prompts import fit_prompts, load_prompts, split_held_out
from .sources import SPLIT_OF_PREFIX, splits_of

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
    Returns the rows that a checkpoint is scored on: `eval_dataset_name`, or the dataset; of either the test split, or
    else, where none was asked for by name, the validation split.

    A single file is taken whole, whatever it is called.

    Args:
        **settings:
            The fields of [`~lmrl.arguments.DataArguments`]; those about training and lengths are not read.

    Raises:
        FileNotFoundError: If there is nothing by that name.
        ValueError: If there is no such split, or rows cannot be read.
    """
    source = eval_dataset_name or dataset_name
    about_rows = ("dataset_config", "column_names", "reference_column")
    names = (*about_rows, "prompt_template", "prompt_column", "chat", "system_prompt")
    columns = {name: settings[name] for name in names if name in settings}
    present = _splits(source, columns.get("dataset_config"))
    split = "train" if present == {"train"} else _held_out_split(present, dataset_test_split) or dataset_test_split
    return load_prompts(source, split=split, max_rows=eval_rows, **columns)


def _splits(source: str, config: str | None) -> set[str]:
    return {"train", "test"} if source == "demo" else splits_of(source, config)


def _held_out_split(present: set[str], wanted: str) -> str | None:
    """Returns the split asked for, as it is stored; where that is the default, a validation split will do too."""
    names = (wanted, SPLIT_OF_PREFIX.get(wanted, wanted), *(("validation", "dev") if wanted == "test" else ()))
    return next((name for name in names if name in present), None)


def load_splits(
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int | None,
    *,
    dataset_name: str = "demo",
    dataset_train_split: str = "train",
    eval_dataset_name: str | None = None,
    max_prompt_length: int | None = None,
    long_prompts: Literal["error", "drop", "cut", "cut_end"] = "error",
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
    if max_length is not None and max_length < 1:
        raise ValueError(
            f"the completion leaves {max_length} tokens of the model's context for the prompt, but must leave at "
            "least 1: lower max_completion_length"
        )
    train = load_prompts(dataset_name, split=dataset_train_split, **columns)
    present = _splits(dataset_name, columns.get("dataset_config"))
    may_cut = eval_dataset_name is None and (dataset_test_split == "test" or present == {"train"})
    if may_cut and _held_out_split(present, dataset_test_split) is None:
        train, held_out = split_held_out(train, eval_rows or min(100, len(train) // 2), seed)
    else:
        held_out = load_held_out(
            dataset_name=dataset_name,
            dataset_test_split=dataset_test_split,
            eval_dataset_name=eval_dataset_name,
            eval_rows=eval_rows,
            **columns,
        )
    train = train.select(range(min(max_train_rows or len(train), len(train))))
    limits = [limit for limit in (max_prompt_length, max_length) if limit is not None]
    if limits:
        train = fit_prompts(train, tokenizer, min(limits), long_prompts)
        held_out = fit_prompts(held_out, tokenizer, min(limits), long_prompts)
    return train, held_out
