"""Pairs of a better and a worse completion, for a reward model: as they come, or made of graded texts."""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lmrl.data.cells import check_column, fill_template, joined, make_prompt, template_fields
from lmrl.data.labels import first_rows, read_train_and_test
from lmrl.data.prompts import split_held_out

if TYPE_CHECKING:
    from datasets import Dataset


class _Graded(NamedTuple):
    prompt: Any
    text: str
    grade: float


def load_pairs(
    dataset_name: str,
    *,
    dataset_config: str | None = None,
    dataset_train_split: str = "train",
    dataset_test_split: str = "test",
    prompt_template: str | None = None,
    prompt_column: str = "prompt",
    text_column: str | None = None,
    grade_columns: Sequence[str] | None = None,
    min_grade_difference: float = 0.0,
    max_train_rows: int | None = None,
    eval_rows: int | None = None,
    seed: int = 0,
) -> "tuple[Dataset, Dataset]":
    """
    Returns the pairs to train on and held-out pairs, with the columns "prompt", "chosen" and "rejected".

    The rows are such pairs, of texts or of chat messages (without a prompt column it is what both begin with), or,
    with `text_column` and `grade_columns`, graded texts: [`pairs_of_graded`]. Where there is no test split, rows are
    held out by prompt, before pairs are made of them: no prompt is on both sides.

    Args:
        dataset_name (`str`), dataset_config (`str`, *optional*):
            What is read: as for [`~lmrl.data.sources.read_split`].
        dataset_train_split (`str`, *optional*, defaults to `"train"`), dataset_test_split (`str`, *optional*):
            The splits. Where there is no test split, `eval_rows` (100) training rows are held out.
        prompt_template (`str`, *optional*), prompt_column (`str`, *optional*, defaults to `"prompt"`):
            The prompt. A cell that is a list of texts is joined by `; `.
        text_column (`str`, *optional*), grade_columns (`Sequence[str]`, *optional*):
            Columns with a text and with its grades, of which the mean is taken.
        min_grade_difference (`float`, *optional*, defaults to `0.0`):
            Grades closer than this make no pair.
        max_train_rows (`int`, *optional*), eval_rows (`int`, *optional*):
            Rows of the file, not pairs.
        seed (`int`, *optional*, defaults to `0`):
            Chooses held-out rows.

    Raises:
        FileNotFoundError: If there is nothing by that name.
        ValueError: If a column is missing, or no pair comes out.
    """
    if (text_column is None) != (not grade_columns):
        raise ValueError(
            f"text_column is {text_column!r} and grade_columns {grade_columns}: graded texts need both, pairs neither"
        )
    train, test = read_train_and_test(dataset_name, dataset_config, dataset_train_split, dataset_test_split)
    train = _with_prompt(train, prompt_template, prompt_column)
    if test is None:
        train, test = split_held_out(train, eval_rows or min(100, len(train) // 2), seed)
    else:
        test = first_rows(_with_prompt(test, prompt_template, prompt_column), eval_rows)
    train = first_rows(train, max_train_rows)
    if text_column is not None and grade_columns:
        options = (text_column, grade_columns, min_grade_difference)
        return pairs_of_graded(train, *options), pairs_of_graded(test, *options)
    return _checked_pairs(train), _checked_pairs(test)


def pairs_of_graded(
    rows: "Dataset",
    text_column: str,
    grade_columns: Sequence[str],
    min_grade_difference: float = 0.0,
    completion_prefix: str = " ",
) -> "Dataset":
    """
    Returns a pair for each two texts of the same prompt of which one has the better grade.

    Args:
        rows (`datasets.Dataset`):
            Rows with a "prompt", texts and grades.
        text_column (`str`):
            Column with the text.
        grade_columns (`Sequence[str]`):
            Columns with numbers; a text's grade is their mean.
        min_grade_difference (`float`, *optional*, defaults to `0.0`):
            Grades closer than this make no pair; equal ones never do.
        completion_prefix (`str`, *optional*, defaults to `" "`):
            Goes between a text prompt and the text, as part of the completion. Chats have no such seam.

    Returns:
        `datasets.Dataset` with "prompt", "chosen" and "rejected", in the order of the rows.

    Raises:
        ValueError: If a column is missing, a cell has no text or number, or no pair comes out.
    """
    from datasets import Dataset

    for column in (text_column, *grade_columns):
        check_column(column, rows.column_names, "text_column or grade_columns")
    groups: defaultdict[str, list[_Graded]] = defaultdict(list)
    for number, row in enumerate(rows):
        grade = _grade(row, text_column, grade_columns, number)
        groups[repr(row["prompt"])].append(_Graded(row["prompt"], row[text_column], grade))
    pairs = []
    for two in itertools.chain.from_iterable(itertools.combinations(group, 2) for group in groups.values()):
        worse, better = sorted(two, key=lambda graded: graded.grade)
        difference = better.grade - worse.grade
        # Two systems may write the same text, which no model can tell apart.
        if difference > 0 and difference >= min_grade_difference and better.text != worse.text:
            chosen, rejected = (_completion(*graded[:2], completion_prefix) for graded in (better, worse))
            pairs.append({"prompt": better.prompt, "chosen": chosen, "rejected": rejected})
    if not pairs:
        raise ValueError(
            f"{len(rows)} graded texts of {len(groups)} prompts make no pair with grades min_grade_difference="
            f"{min_grade_difference} apart: lower it, or check that prompts repeat"
        )
    return Dataset.from_list(pairs)


def _grade(row: dict[str, Any], text_column: str, grade_columns: Sequence[str], number: int) -> float:
    try:
        grade = sum(float(row[column]) for column in grade_columns) / len(grade_columns)
    except (TypeError, ValueError):
        grade = float("nan")
    if not isinstance(row[text_column], str) or grade != grade:
        cells = {column: row[column] for column in (text_column, *grade_columns)}
        raise ValueError(f"row {number} (the first is 0) has {cells}: each needs a text and numbers; drop the row")
    return grade


def _completion(prompt: Any, text: str, prefix: str) -> Any:
    return prefix + text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def _with_prompt(rows: "Dataset", template: str | None, column: str) -> "Dataset":
    """Returns the rows with a "prompt" column of texts or chats."""
    from datasets import Dataset, concatenate_datasets

    implicit = "prompt" not in rows.column_names and "chosen" in rows.column_names
    if implicit and template is None and column == "prompt":
        from trl import maybe_extract_prompt

        return rows.map(maybe_extract_prompt)
    if template is None:
        check_column(column, rows.column_names, "prompt_column (or make the prompt with prompt_template)")
        made = [joined(value) for value in rows[column]]
    else:
        fields = template_fields(template, rows.column_names)
        made = [fill_template(template, fields, row, number) for number, row in enumerate(rows)]
    prompts = [make_prompt(prompt, number, False, None) for number, prompt in enumerate(made)]
    others = [name for name in rows.column_names if name != "prompt"]
    return concatenate_datasets([Dataset.from_dict({"prompt": prompts}), rows.select_columns(others)], axis=1)


def _checked_pairs(rows: "Dataset") -> "Dataset":
    for column in ("chosen", "rejected"):
        if column not in rows.column_names:
            raise ValueError(
                f"pairs have the columns 'prompt', 'chosen' and 'rejected', but there are {rows.column_names}: rename "
                "columns, or name text_column and grade_columns if texts are graded"
            )
    for number, row in enumerate(rows):
        kinds = {type(row[column]) for column in ("prompt", "chosen", "rejected")}
        if kinds not in ({str}, {list}):
            raise ValueError(
                f"row {number} (the first is 0): prompt, chosen and rejected must be all texts or all chat messages, "
                f"but are {sorted(kind.__name__ for kind in kinds)}: correct the row, or drop the prompt column where "
                "chosen and rejected begin with the prompt"
            )
    return rows.select_columns(["prompt", "chosen", "rejected"])
