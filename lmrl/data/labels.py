"""Labelled texts for a classifier."""

from collections.abc import Sequence
from typing import Any

from lmrl.data.cells import check_column, place_of
from lmrl.data.splits import hold_out, read_train_and_test
from lmrl.libraries import Dataset, datasets
from lmrl.utils import shorten


def load_labelled(
    dataset_name: str,
    *,
    dataset_config: str | None = None,
    dataset_train_split: str = "train",
    dataset_test_split: str | None = None,
    eval_dataset_name: str | None = None,
    column_names: Sequence[str] | None = None,
    text_column: str = "text",
    label_column: str = "label",
    class_names: Sequence[str] | None = None,
    max_train_rows: int | None = None,
    eval_rows: int | None = None,
    eval_split_seed: int | None = None,
) -> tuple[Dataset, Dataset, list[str]]:
    """
    Returns the texts to train on, the held-out texts, and the names of the labels.

    Both have the columns "text" and "label", an index into these names. The labels are those of the training rows: in
    the dataset's own order if it names its labels, else sorted, as numbers if all are numbers.

    Args:
        dataset_name (`str`), dataset_config (`str`, *optional*), column_names (`Sequence[str]`, *optional*):
            As for [`~lmrl.data.load_prompts`].
        dataset_train_split (`str`, *optional*, defaults to `"train"`), dataset_test_split (`str`, *optional*):
            The splits. Without a test or validation split, `eval_rows` (100) training rows are held out.
        eval_dataset_name (`str`, *optional*):
            Data with the held-out rows, as for [`~lmrl.data.load_held_out`]. Defaults to the test split.
        text_column (`str`, *optional*, defaults to `"text"`), label_column (`str`, *optional*):
            Columns with the text and with its label, a text or a number.
        class_names (`Sequence[str]`, *optional*):
            Names of the labels, in their order.
        max_train_rows (`int`, *optional*), eval_rows (`int`, *optional*):
            Number of rows to read, from the first.
        eval_split_seed (`int`, *optional*):
            Seed that chooses the rows to split off as held out; 42 by default.

    Raises:
        FileNotFoundError: If there is nothing by that name.
        ValueError: If a column is missing, a cell is empty, there is only one label, or `class_names` do not fit.
    """
    train, test = read_train_and_test(
        dataset_name, dataset_config, dataset_train_split, dataset_test_split, column_names, eval_dataset_name
    )
    for part in (train, test or train):
        check_column(text_column, part.column_names, "text_column")
        check_column(label_column, part.column_names, "label_column")
    labels = _labels(train, label_column)
    names = list(class_names or labels)
    if len(labels) < 2 or len(set(names)) != len(labels):
        raise ValueError(
            "There must be at least two labels in the training rows, and a different name in `class_names` for each, "
            f"got the labels {labels} in column {label_column!r} and the names {names}."
        )
    rows = _labelled(train, text_column, label_column, labels)
    test = None if test is None else _labelled(test, text_column, label_column, labels)
    rows, held_out = hold_out(rows, test, max_train_rows, eval_rows, eval_split_seed, column="text")
    return rows, held_out, names


def _labels(rows: Dataset, column: str) -> list[str]:
    """Returns the labels of the rows, in order."""
    if names := getattr(rows.features[column], "names", None):
        return list(names)
    cells = [cell for cell in rows[column] if cell is not None and cell == cell]  # NaN
    values = sorted({str(cell) for cell in cells if str(cell).strip()})
    try:
        return sorted(values, key=float)
    except ValueError:  # words
        return values


def _labelled(rows: Dataset, text_column: str, label_column: str, labels: list[str]) -> Dataset:
    named = getattr(rows.features[label_column], "names", None)
    index = {label: number for number, label in enumerate(labels)}
    made: list[dict[str, Any]] = []
    for number, (text, value) in enumerate(zip(rows[text_column], rows[label_column], strict=True)):
        label = named[value] if named and isinstance(value, int) and 0 <= value < len(named) else str(value)
        has_text = isinstance(text, str) and text.strip()
        if not has_text or value is None or isinstance(value, list | dict) or label not in index:
            raise ValueError(
                f"A row must have a text and one of the labels of the training rows, {labels}, got the text "
                f"{shorten(text)} and the label {value!r} in {place_of(number)}. Correct or drop it."
            )
        made.append({"text": text, "label": index[label]})
    return datasets.Dataset.from_list(made)
