"""Texts with labels, for a classifier."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lmrl.data.cells import check_column
from lmrl.data.prompts import split_held_out
from lmrl.data.sources import read_split, splits_of

if TYPE_CHECKING:
    from datasets import Dataset


def load_labelled(
    dataset_name: str,
    *,
    dataset_config: str | None = None,
    dataset_train_split: str = "train",
    dataset_test_split: str = "test",
    column_names: Sequence[str] | None = None,
    text_column: str = "text",
    label_column: str = "label",
    class_names: Sequence[str] | None = None,
    max_train_rows: int | None = None,
    eval_rows: int | None = None,
    seed: int = 0,
) -> "tuple[Dataset, Dataset, list[str]]":
    """
    Returns the texts to train on, the held-out texts, and the names of the labels.

    Both have the columns "text" and "label", the index of a name. The labels are those of the training rows, in their
    order: of a dataset from the hub its own, of others that of the numbers, or else the alphabet.

    Args:
        dataset_name (`str`), dataset_config (`str`, *optional*), column_names (`Sequence[str]`, *optional*):
            What is read: as for [`~lmrl.data.sources.read_split`].
        dataset_train_split (`str`, *optional*, defaults to `"train"`), dataset_test_split (`str`, *optional*):
            The splits. Where there is no test split, `eval_rows` (100) training rows are held out.
        text_column (`str`, *optional*, defaults to `"text"`), label_column (`str`, *optional*):
            Columns with the text and with its label, a text or a number.
        class_names (`Sequence[str]`, *optional*):
            Other names for the labels, in their order.
        max_train_rows (`int`, *optional*), eval_rows (`int`, *optional*):
            The first so many rows only.
        seed (`int`, *optional*, defaults to `0`):
            Chooses held-out rows.

    Raises:
        FileNotFoundError: If there is nothing by that name.
        ValueError: If a column is missing, a cell empty, there is one label only, or `class_names` do not fit.
    """
    train, test = read_train_and_test(
        dataset_name, dataset_config, dataset_train_split, dataset_test_split, column_names
    )
    for column, option in ((text_column, "text_column"), (label_column, "label_column")):
        check_column(column, train.column_names, option)
    labels = _labels(train, label_column)
    names = list(class_names or labels)
    if len(labels) < 2 or len(set(names)) != len(labels):
        raise ValueError(
            f"the labels of the training rows in column {label_column!r} are {labels}, and class_names is "
            f"{class_names}: there must be at least two labels, and a name for each"
        )
    rows = _labelled(train, text_column, label_column, labels)
    if test is None:
        parts = split_held_out(rows.rename_column("text", "prompt"), eval_rows or min(100, len(rows) // 2), seed)
        rows, held_out = (part.rename_column("prompt", "text") for part in parts)
    else:
        held_out = first_rows(_labelled(test, text_column, label_column, labels), eval_rows)
    return first_rows(rows, max_train_rows), held_out, names


def read_train_and_test(
    name: str, config: str | None, train_split: str, test_split: str, column_names: Sequence[str] | None = None
) -> "tuple[Dataset, Dataset | None]":
    """
    Returns the rows of the training split and of the test split, as they are stored.

    Where there is no "test", and no other split was asked for, the validation split is taken for it. The second is
    `None` where there is none either.

    Args:
        name (`str`), config (`str` or `None`), column_names (`Sequence[str]`, *optional*):
            As for [`~lmrl.data.sources.read_split`].
        train_split (`str`), test_split (`str`):
            Names of the splits.

    Raises:
        FileNotFoundError: If there is nothing by that name.
        ValueError: If there is no such split, or the rows cannot be read.
    """
    train = read_split(name, config, train_split, column_names)
    present = splits_of(name, config)
    wanted: str | None = test_split
    if test_split == "test" or present == {"train"}:
        wanted = next((split for split in ("test", "validation", "dev") if split in present), None)
    return train, None if wanted is None else read_split(name, config, wanted, column_names)


def first_rows(rows: "Dataset", count: int | None) -> "Dataset":
    """Returns the first `count` rows, or all."""
    return rows.select(range(min(count or len(rows), len(rows))))


def _labels(rows: "Dataset", column: str) -> list[str]:
    """Returns the labels of the rows, in order."""
    if names := getattr(rows.features[column], "names", None):
        return list(names)
    values = {str(value) for value in rows[column] if value is not None}
    return sorted(values, key=int) if all(value.isdecimal() for value in values) else sorted(values)


def _labelled(rows: "Dataset", text_column: str, label_column: str, labels: list[str]) -> "Dataset":
    from datasets import Dataset

    named = getattr(rows.features[label_column], "names", None)
    index = {label: number for number, label in enumerate(labels)}
    made: dict[str, list[Any]] = {"text": [], "label": []}
    for number, (text, value) in enumerate(zip(rows[text_column], rows[label_column], strict=True)):
        label = named[value] if named and isinstance(value, int) and 0 <= value < len(named) else str(value)
        if not isinstance(text, str) or label not in index:
            raise ValueError(
                f"row {number} (the first is 0): the text is {text!r} and the label {value!r}; the text must be text, "
                f"and the label one of those of the training rows, {labels}: correct or drop the row"
            )
        made["text"].append(text)
        made["label"].append(index[label])
    return Dataset.from_dict(made)
