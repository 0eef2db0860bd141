"""Training rows and held-out rows, read as a recipe's settings name them, or split off."""

import inspect
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from lmrl.data.prompts import fit_prompts, load_prompts
from lmrl.data.sources import SPLIT_OF_PREFIX, read_split, splits_of
from lmrl.libraries import Dataset, PreTrainedTokenizerBase
from lmrl.utils import check_at_least, did_you_mean, shorten

SPLIT_SEED = 42  # default of `eval_split_seed`


def load_held_out(
    *,
    dataset_name: str = "demo",
    dataset_test_split: str | None = None,
    eval_dataset_name: str | None = None,
    eval_rows: int | None = None,
    **columns: Any,
) -> Dataset:
    """
    Returns the rows to score a checkpoint on: a split of `eval_dataset_name`, or else of the dataset.

    The split is `dataset_test_split`, or else the test split, or else the validation split. All rows of a single file
    are taken, whatever its name.

    Args:
        **columns:
            The fields of [`~lmrl.arguments.HeldOutArguments`] about columns and prompts, under the same names.

    Raises:
        FileNotFoundError: If there is nothing by that name.
        TypeError: If a name in `columns` is not a field.
        ValueError: If there is no such split, or rows cannot be read.
    """
    _check_names(columns)
    check_at_least(1, eval_rows=eval_rows)
    source = eval_dataset_name or dataset_name
    _, split = _held_out_from(source, columns.get("dataset_config"), dataset_test_split, eval_name=source)
    return load_prompts(source, split=split or "test", max_rows=eval_rows, **columns)


def load_splits(
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
    chat_template_kwargs: dict[str, Any] | None = None,
    *,
    dataset_name: str = "demo",
    dataset_train_split: str = "train",
    dataset_test_split: str | None = None,
    eval_dataset_name: str | None = None,
    max_train_rows: int | None = None,
    eval_rows: int | None = None,
    eval_split_seed: int | None = None,
    max_prompt_length: int | None = None,
    long_prompts: Literal["error", "drop", "cut", "cut_end"] = "error",
    **columns: Any,
) -> tuple[Dataset, Dataset]:
    """
    Returns the rows to train on and the held-out rows, none with a prompt that is too long.

    The held-out rows are those of `eval_dataset_name` if set, else of `dataset_test_split` if set, else of the test or
    validation split if there is one, else `eval_rows` (100 by default) rows split off from the training rows.

    Args:
        tokenizer (`transformers.PreTrainedTokenizerBase`):
            Tokenizer of the policy, which counts the tokens of prompts.
        max_length (`int`, *optional*):
            Largest number of tokens of a prompt that leaves room for its completion in the context.
        chat_template_kwargs (`dict`, *optional*):
            Variables of the chat template, as in training.
        eval_split_seed (`int`, *optional*):
            Seed that chooses the rows to split off, 42 by default, independent of the run's seed: a warm start and all
            runs to be compared must hold out the same rows.
        **columns:
            The further fields of [`~lmrl.arguments.DataArguments`], under the same names.

    Raises:
        FileNotFoundError, TypeError: As [`load_held_out`].
        ValueError: If rows cannot be read, or prompts are too long and `long_prompts` is `"error"`.
    """
    _check_names(columns)
    check_at_least(1, eval_rows=eval_rows)
    config = columns.get("dataset_config")
    source, split = _held_out_from(dataset_name, config, dataset_test_split, eval_dataset_name, dataset_train_split)
    if max_length is not None and max_length < 1:
        raise ValueError(
            f"Prompts must have room for at least 1 token, got {max_length}. Raise `max_length`, or lower "
            "`max_completion_length`."
        )
    train = load_prompts(dataset_name, split=dataset_train_split, **columns)
    test = None if split is None else load_prompts(source, split=split, max_rows=eval_rows, **columns)
    train, held_out = hold_out(train, test, max_train_rows, eval_rows, eval_split_seed)
    limits = [limit for limit in (max_length, max_prompt_length) if limit is not None]
    if limits:
        train, held_out = (
            fit_prompts(rows, tokenizer, min(limits), long_prompts, chat_template_kwargs) for rows in (train, held_out)
        )
    return train, held_out


def read_train_and_test(
    name: str,
    config: str | None,
    train_split: str,
    test_split: str | None,
    column_names: Sequence[str] | None = None,
    eval_name: str | None = None,
) -> "tuple[Dataset, Dataset | None]":
    """
    Returns the rows of the training split and held-out rows, as [`~lmrl.data.sources.read_split`] reads them.

    The held-out rows are those of `eval_name`, read as [`load_held_out`] does, or else of the test split. They are
    `None` if neither `eval_name` nor a held-out split exists ([`held_out_split`]).
    """
    source, split = _held_out_from(name, config, test_split, eval_name, train_split)
    train = read_split(name, config, train_split, column_names)
    return train, None if split is None else read_split(source, config, split, column_names)


def _held_out_from(
    name: str, config: str | None, wanted: str | None, eval_name: str | None, train_split: str | None = None
) -> tuple[str, str | None]:
    """Returns the data with the held-out rows and its split, `None` if rows must be split off (no `eval_name`)."""
    source = eval_name or name
    is_single = splits_of(source, config) == {"train"}
    if is_single and wanted not in (None, "train"):
        raise ValueError(
            f"`dataset_test_split` must be left out for data without a held-out split, got {wanted!r} with {source!r}."
            " Leave it out, or name data that has this split."
        )
    split = held_out_split(source, config, wanted)
    if eval_name is None and train_split is not None and split == held_out_split(name, config, train_split):
        raise ValueError(
            f"`dataset_test_split` must be another split than dataset_train_split={train_split!r}, got {split!r}. "
            "Name another one, or held-out data with `eval_dataset_name`."
        )
    if split is None and eval_name:
        split = "train" if is_single else "test"  # all rows of a single file
    return source, split


def held_out_split(name: str, config: str | None, wanted: str | None) -> str | None:
    """
    Returns the stored name of a held-out split: the wanted one, or without one the test or the validation split.

    `None` if no split is wanted and there is neither, so that rows must be split off. A wanted name that the data does
    not have is returned unchanged; reading it will raise the error.
    """
    present = splits_of(name, config)
    names = ("test", "validation", "dev") if wanted is None else (wanted, SPLIT_OF_PREFIX.get(wanted, wanted))
    return next((name for name in names if name in present), wanted)


def split_held_out(
    dataset: Dataset, eval_rows: int | None, seed: int, column: str = "prompt"
) -> tuple[Dataset, Dataset]:
    """
    Returns training rows and held-out rows, for data without a held-out split.

    Rows with the same prompt stay on one side. If that does not allow exactly `eval_rows` rows, fewer are held out,
    never more.

    Args:
        eval_rows (`int`, *optional*):
            Rows to hold out, at least 1. Defaults to 100, and at most half of the rows.
        seed (`int`):
            Chooses the held-out rows. Both sides keep the order of the rows.
        column (`str`, *optional*, defaults to `"prompt"`):
            Column whose equal values stay together.

    Raises:
        ValueError: If all rows have the same prompt, or `eval_rows` leaves nothing on one of the sides.
    """
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for number, prompt in enumerate(dataset[column]):
        groups[json.dumps(prompt, sort_keys=True)].append(number)
    if len(groups) < 2:
        first = shorten(next(iter(dataset[column]), None))
        raise ValueError(
            f"Data without a held-out split must have at least 2 different {column}s, got {len(groups)} in "
            f"{len(dataset)} rows, {first}: rows with the same {column} stay together. Correct the rows, or name "
            "held-out ones with `eval_dataset_name`."
        )
    if eval_rows is None:
        eval_rows = min(100, len(dataset) // 2)
    if not 1 <= eval_rows < len(dataset):
        raise ValueError(
            f"`eval_rows` must be from 1 to {len(dataset) - 1}, as there are {len(dataset)} rows, got {eval_rows}."
        )
    shuffled = list(groups.values())
    random.Random(seed).shuffle(shuffled)
    held_out: set[int] = set()
    for group in shuffled:
        if len(held_out) + len(group) <= eval_rows:
            held_out.update(group)
    if not held_out:
        raise ValueError(
            f"`eval_rows` must be at least {min(map(len, shuffled))}, got {eval_rows}: every {column} is repeated "
            f"that often, as {shorten(json.loads(next(iter(groups))))}, and rows with the same {column} stay together."
        )
    kept = [number for number in range(len(dataset)) if number not in held_out]
    return dataset.select(kept), dataset.select(sorted(held_out))


def hold_out(
    train: Dataset,
    test: "Dataset | None",
    max_train_rows: int | None,
    eval_rows: int | None,
    seed: int | None,
    column: str = "prompt",
) -> tuple[Dataset, Dataset]:
    """Returns the first training rows and the first held-out rows; these are split off if `test` is `None`."""
    check_at_least(1, max_train_rows=max_train_rows, eval_rows=eval_rows)
    if test is not None and seed is not None:
        raise ValueError(
            f"`eval_split_seed` must be left out where no rows are split off, got {seed}: there is a held-out split, "
            "or `eval_dataset_name` is set. Leave it out."
        )
    if test is None:
        train, test = split_held_out(train, eval_rows, SPLIT_SEED if seed is None else seed, column)
    return train.select(range(len(train))[:max_train_rows]), test.select(range(len(test))[:eval_rows])


def _check_names(columns: Iterable[str]) -> None:
    """Raises a `TypeError` for the first name that is not a field, as Python does for an unknown argument."""
    parameters = inspect.signature(load_prompts).parameters
    known = [name for name in parameters if name not in ("split", "max_rows", "dataset_name")]
    for name in columns:
        if name not in known:
            raise TypeError(f"Settings must be fields of DataArguments, got `{name}`.{did_you_mean(name, known)}")
