"""Pairs of a better and a worse completion for a reward model: read from a file, or made from graded texts."""

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from lmrl.data.cells import check_column, make_completion, place_of
from lmrl.data.prompts import make_prompts, with_columns
from lmrl.data.splits import hold_out, read_train_and_test
from lmrl.libraries import Dataset, datasets


class _Graded(NamedTuple):
    prompt: Any
    text: str
    grade: float


def load_pairs(
    dataset_name: str,
    *,
    dataset_config: str | None = None,
    dataset_train_split: str = "train",
    dataset_test_split: str | None = None,
    eval_dataset_name: str | None = None,
    column_names: Sequence[str] | None = None,
    prompt_template: str | None = None,
    prompt_column: str = "prompt",
    text_column: str | None = None,
    grade_columns: Sequence[str] | None = None,
    min_grade_difference: float = 0.0,
    max_train_rows: int | None = None,
    eval_rows: int | None = None,
    eval_split_seed: int | None = None,
) -> tuple[Dataset, Dataset]:
    """
    Returns the pairs to train on and held-out pairs, with the columns "prompt", "chosen" and "rejected".

    The rows of the data are such pairs, of texts or chat messages (without a prompt column, the common beginning of
    both is the prompt), or, with `text_column` and `grade_columns`, graded texts: [`pairs_of_graded`]. Without a test
    split, rows are held out by prompt before pairs are made, so that no prompt is on both sides.

    Args:
        dataset_name (`str`), eval_dataset_name, dataset_config, column_names, eval_split_seed:
            As for [`load_labelled`].
        dataset_train_split, dataset_test_split (`str`, *optional*):
            As for [`load_labelled`].
        prompt_template (`str`, *optional*), prompt_column (`str`, *optional*, defaults to `"prompt"`):
            As for [`load_prompts`].
        text_column (`str`, *optional*), grade_columns (`Sequence[str]`, *optional*), min_grade_difference (`float`):
            As for [`pairs_of_graded`], for graded texts.
        max_train_rows (`int`, *optional*), eval_rows (`int`, *optional*):
            Number of rows of the file to read, not of pairs.

    Raises:
        FileNotFoundError: If there is nothing by that name.
        ValueError: If a column is missing, or no pair can be made of the rows.
    """
    if (text_column is None) != (not grade_columns):
        raise ValueError(
            "`text_column` and `grade_columns` must both be set for graded texts, and neither for pairs, got "
            f"{text_column!r} and {grade_columns}."
        )
    train, test = read_train_and_test(
        dataset_name, dataset_config, dataset_train_split, dataset_test_split, column_names, eval_dataset_name
    )
    train = _with_prompt(train, prompt_template, prompt_column)
    test = None if test is None else _with_prompt(test, prompt_template, prompt_column)
    train, test = hold_out(train, test, max_train_rows, eval_rows, eval_split_seed)
    if text_column is not None and grade_columns:
        options = (text_column, grade_columns, min_grade_difference)
        return pairs_of_graded(train, *options), pairs_of_graded(test, *options)
    return _checked_pairs(train), _checked_pairs(test)


def pairs_of_graded(
    rows: Dataset,
    text_column: str,
    grade_columns: Sequence[str],
    min_grade_difference: float = 0.0,
    completion_prefix: str = " ",
) -> Dataset:
    """
    Returns one pair for every two texts of the same prompt whose grades differ.

    Args:
        rows (`datasets.Dataset`):
            Rows with a "prompt", texts and grades.
        text_column (`str`):
            Column with the text.
        grade_columns (`Sequence[str]`):
            Columns with numbers; the grade of a text is their mean.
        min_grade_difference (`float`, *optional*, defaults to `0.0`):
            Two texts whose grades differ by less make no pair, nor do equal grades.
        completion_prefix (`str`, *optional*, defaults to `" "`):
            Put at the beginning of a completion of a text prompt, unless the prompt ends in white space. Not used for
            chats.

    Returns:
        `datasets.Dataset` with "prompt", "chosen" and "rejected", in the order of the rows.

    Raises:
        ValueError: If a column is missing, a cell has no text or number, or the rows make no pair.
    """
    for column in (text_column, *grade_columns):
        check_column(column, rows.column_names, "text_column` or `grade_columns")
    groups: defaultdict[str, list[_Graded]] = defaultdict(list)
    for number, row in enumerate(rows):
        grade = _grade(row, text_column, grade_columns, number)
        groups[repr(row["prompt"])].append(_Graded(row["prompt"], row[text_column], grade))
    pairs = []
    for two in itertools.chain.from_iterable(itertools.combinations(group, 2) for group in groups.values()):
        worse, better = sorted(two, key=lambda graded: graded.grade)
        difference = better.grade - worse.grade
        # Two systems may have written the same text with different grades: a model could not learn from that.
        if difference > 0 and difference >= min_grade_difference and better.text != worse.text:
            chosen, rejected = (make_completion(*graded[:2], completion_prefix) for graded in (better, worse))
            pairs.append({"prompt": better.prompt, "chosen": chosen, "rejected": rejected})
    if not pairs:
        raise ValueError(
            f"`min_grade_difference` must leave at least one pair, got {min_grade_difference}, with which {len(rows)} "
            f"graded texts of {len(groups)} prompts make no pair. Lower it, or check that prompts repeat."
        )
    return datasets.Dataset.from_list(pairs)


def _grade(row: dict[str, Any], text_column: str, grade_columns: Sequence[str], number: int) -> float:
    try:
        grade = sum(float(row[column]) for column in grade_columns) / len(grade_columns)
    except (TypeError, ValueError):
        grade = math.nan
    if not isinstance(row[text_column], str) or not math.isfinite(grade):
        cells = {column: row[column] for column in (text_column, *grade_columns)}
        raise ValueError(f"A row must have text and finite numbers, got {cells} in {place_of(number)}. Drop the row.")
    return grade


def _with_prompt(rows: Dataset, template: str | None, column: str) -> Dataset:
    """Returns the rows with a "prompt" column of texts or chats."""
    implicit = "prompt" not in rows.column_names and {"chosen", "rejected"} <= set(rows.column_names)
    if implicit and template is None and column == "prompt":
        return rows.map(_common_beginning)
    return with_columns(rows, {"prompt": make_prompts(rows, template, column)})


def _common_beginning(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a pair with the common beginning of both as its prompt, which is empty if they begin differently."""
    from trl import maybe_extract_prompt

    chosen, rejected = row["chosen"], row["rejected"]
    if not chosen or not rejected or chosen[0] != rejected[0]:  # TRL 1.16 fails, or takes a wrong one
        return {**row, "prompt": type(chosen)()}
    return dict(maybe_extract_prompt(row))


def _checked_pairs(rows: Dataset) -> Dataset:
    if not {"chosen", "rejected"} <= set(rows.column_names):
        raise ValueError(
            f"Pairs must have the columns 'prompt', 'chosen' and 'rejected', got {rows.column_names}. Rename columns, "
            "or set `text_column` and `grade_columns` if texts are graded."
        )
    for number, row in enumerate(rows):
        kinds = {type(row[column]) for column in ("prompt", "chosen", "rejected")}
        if kinds not in ({str}, {list}):
            raise ValueError(
                "`prompt`, `chosen` and `rejected` must be all texts or all chat messages, got "
                f"{sorted(kind.__name__ for kind in kinds)} in {place_of(number)}. Correct the row, or drop the "
                "prompt column where the other two begin with the prompt."
            )
    return rows.select_columns(["prompt", "chosen", "rejected"])
