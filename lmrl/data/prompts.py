"""Rows for the trainers: a "prompt", "references" where the data has them, and the columns that rewards read."""

import logging
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any, Literal

from lmrl.data.cells import Prompt, check_column, fill_fields, make_completion, make_prompt, make_references, place_of
from lmrl.data.sources import read_split
from lmrl.libraries import Dataset, PreTrainedTokenizerBase, datasets
from lmrl.utils import RESERVED_COLUMNS, check_at_least, check_in, tokenize_prompt

logger = logging.getLogger(__name__)


def load_prompts(
    dataset_name: str = "demo",
    *,
    dataset_config: str | None = None,
    split: str = "train",
    column_names: Sequence[str] | None = None,
    prompt_template: str | None = None,
    prompt_column: str = "prompt",
    reference_column: str | None = None,
    chat: bool = False,
    system_prompt: str | None = None,
    max_rows: int | None = None,
) -> Dataset:
    """
    Returns the rows of a split with a "prompt" column, "references" where the data has them, and every other column,
    except those whose names mean something else to TRL (`completions`, `image` ...), with a warning.

    Args:
        dataset_name (`str`, *optional*, defaults to `"demo"`):
            `"demo"` (the embedded corpus); a JSON, JSON Lines, CSV, TSV or Parquet file; a folder of such files, where
            those named train\\*, dev\\*, validation\\*, test\\* are the splits; a folder written by `save_to_disk`; or
            the id of a dataset on the hub. All cells of CSV and TSV are text.
        dataset_config (`str`, *optional*):
            Configuration of a hub dataset.
        split (`str`, *optional*, defaults to `"train"`):
            The split. A single file is `"train"`, or what its name begins with.
        column_names (`Sequence[str]`, *optional*):
            Names of the columns of CSV and TSV files without a header. Defaults to their first line.
        prompt_template (`str`, *optional*):
            Text of the prompt with columns as fields: `"{mr} ->"`. `{{` and `}}` are literal braces. A list is joined
            by `; `, or by the text after a colon: `"{concepts:, } ->"`.
        prompt_column (`str`, *optional*, defaults to `"prompt"`):
            Column with the prompt, without a template: text, a list of texts (joined by `; `) or of chat messages.
        reference_column (`str`, *optional*):
            Column (text or list of texts) that becomes `"references"`. Defaults to a column `"references"` if any.
        chat (`bool`, *optional*, defaults to `False`):
            Whether a text prompt becomes a chat with one user message.
        system_prompt (`str`, *optional*):
            First message of every chat. Implies `chat`.
        max_rows (`int`, *optional*):
            Number of rows to read, from the first; all by default.

    Returns:
        `datasets.Dataset`, at least one row.

    Raises:
        FileNotFoundError: If there is nothing by that name.
        ValueError: If the data cannot be read or a prompt or reference is missing; rows are counted from 0.
    """
    check_at_least(1, max_rows=max_rows)
    rows = read_split(dataset_name, dataset_config, split, column_names)
    rows = rows.select(range(len(rows))[:max_rows])
    made: dict[str, list[Any]] = {"prompt": make_prompts(rows, prompt_template, prompt_column, chat, system_prompt)}
    if reference_column is not None or "references" in rows.column_names:
        column = reference_column or "references"
        check_column(column, rows.column_names, "reference_column")
        made["references"] = [make_references(value, number, column) for number, value in enumerate(rows[column])]
    reserved = [name for name in rows.column_names if name in RESERVED_COLUMNS]
    if reserved:
        logger.warning(
            f"The columns {reserved} of {dataset_name!r} are left out: a reward is called with an argument of that "
            "name, or TRL makes pictures of it. Rename them in the data if a reward reads them."
        )
    return with_columns(rows.remove_columns(reserved), made)


def fit_prompts(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_prompt_length: int,
    long_prompts: Literal["error", "drop", "cut", "cut_end"] = "error",
    chat_template_kwargs: dict[str, Any] | None = None,
) -> Dataset:
    """
    Returns the rows with no prompt longer than `max_prompt_length` tokens.

    Args:
        dataset (`datasets.Dataset`):
            Rows with a "prompt".
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Counts tokens as the trainers do, including special tokens and, for chats, the generation prompt.
        max_prompt_length (`int`):
            Largest number of tokens of a prompt.
        long_prompts (`str`, *optional*, defaults to `"error"`):
            What happens to longer ones: `"error"` refuses them, `"drop"` drops the rows, `"cut"` keeps the longest end
            of the text that fits, `"cut_end"` the words at its beginning that fit (text prompts only). If any prompt
            is cut, the rows get a column "uncut_prompt".
        chat_template_kwargs (`dict`, *optional*):
            Variables of the chat template, as in training.

    Raises:
        ValueError: If prompts are too long and refused, cannot be cut, or all of them would be dropped.
    """
    check_at_least(1, max_prompt_length=max_prompt_length)
    check_in(("error", "drop", "cut", "cut_end"), long_prompts=long_prompts)
    prompts = list(dataset["prompt"])
    options = chat_template_kwargs or {}
    lengths = [len(tokenize_prompt(tokenizer, prompt, number, **options)) for number, prompt in enumerate(prompts)]
    long = [number for number, length in enumerate(lengths) if length > max_prompt_length]
    if not long:
        return dataset
    found = (
        f"got {max_prompt_length}, and {len(long)} of {len(prompts)} prompts are longer: the longest has "
        f"{max(lengths)} tokens, the first of them is row {long[0]}, counted from 0, with {lengths[long[0]]}"
    )
    if long_prompts == "error":
        raise ValueError(
            f"`max_prompt_length` must be at least the length of each prompt, {found}. Raise it, lower "
            "`max_completion_length` where the model's context is the limit, or set `long_prompts` to 'drop', 'cut' "
            "or 'cut_end'."
        )
    if long_prompts == "drop":
        if len(long) == len(prompts):
            raise ValueError(f"`max_prompt_length` must leave at least one row, {found}. Raise it.")
        logger.warning("`max_prompt_length`: %s. Dropped their rows, %d are left.", found, len(prompts) - len(long))
        return dataset.select([number for number, length in enumerate(lengths) if length <= max_prompt_length])
    for number in long:
        prompts[number] = _cut(prompts[number], tokenizer, max_prompt_length, number, long_prompts)
    side = "beginnings" if long_prompts == "cut" else "ends"
    logger.warning("`max_prompt_length`: %s. Cut off their %s.", found, side)
    uncut = {} if "uncut_prompt" in dataset.column_names else {"uncut_prompt": list(dataset["prompt"])}
    return with_columns(dataset, {"prompt": prompts, **uncut}).select_columns([*dataset.column_names, *uncut])


def to_supervised(
    dataset: Dataset, completion_prefix: str = " ", chat_template_kwargs: dict[str, Any] | None = None
) -> Dataset:
    """
    Returns a row for each reference of each row, with "prompt" and "completion", for `trl.SFTTrainer`; the completion
    of a chat is a list with one assistant message.

    Args:
        dataset (`datasets.Dataset`):
            Rows with a "prompt" and "references".
        completion_prefix (`str`, *optional*, defaults to `" "`):
            Begins each completion of a text prompt that does not end in white space. Not used for chats.
        chat_template_kwargs (`dict`, *optional*):
            Variables of the chat template, a further column of all rows.

    Raises:
        ValueError: If there is no "references" column, or one of its cells has no text.
    """
    if "references" not in dataset.column_names:
        raise ValueError(
            "Rows for supervised fine-tuning must have a column 'references', one completion each, got "
            f"{dataset.column_names}. Set `reference_column`."
        )
    variables = {"chat_template_kwargs": chat_template_kwargs} if chat_template_kwargs else {}
    rows = []
    for number, (prompt, cell) in enumerate(zip(dataset["prompt"], dataset["references"], strict=True)):
        texts = make_references(cell, number, "references")
        completions = [make_completion(prompt, text, completion_prefix) for text in texts]
        rows += [{"prompt": prompt, "completion": completion, **variables} for completion in completions]
    return datasets.Dataset.from_list(rows)


def with_columns(rows: Dataset, made: dict[str, list[Any]]) -> Dataset:
    """Returns the rows with new columns in front; they replace columns of the same names."""
    others = [name for name in rows.column_names if name not in made]
    front = datasets.Dataset.from_dict(made)
    return datasets.concatenate_datasets([front, rows.select_columns(others)], axis=1) if others else front


def make_prompts(
    rows: Dataset, template: str | None, column: str, chat: bool = False, system_prompt: str | None = None
) -> list[Prompt]:
    """Returns the validated prompt of every row; the arguments are those of [`load_prompts`]."""
    if template is None:
        check_column(column, rows.column_names, "prompt_column")
        raw = list(rows[column])
    else:
        raw = fill_fields(template, rows)
    return [make_prompt(prompt, number, chat, system_prompt) for number, prompt in enumerate(raw)]


def _cut(prompt: Prompt, tokenizer: PreTrainedTokenizerBase, limit: int, number: int, how: str) -> str:
    """Returns the longest end, or the longest beginning of whole words, that has at most `limit` tokens."""
    if not isinstance(prompt, str):
        raise ValueError(f"`long_prompts` must be 'drop' for chats, got {how!r} and a chat in {place_of(number)}.")

    # Characters are cut, not tokens: a cut between tokens may leave half a character, and the decoded rest may become
    # more tokens when it is tokenized again. The length of the text returned is the one counted here.
    def _length(text: str) -> int:
        return len(tokenizer(text=text)["input_ids"])

    if how == "cut":
        starts = range(len(prompt))
        kept = prompt[bisect_left(starts, True, key=lambda start: _length(prompt[start:]) <= limit) :]
    else:
        ends = [0, *(word.end() for word in re.finditer(r"\S+", prompt))]
        kept = prompt[: ends[bisect_right(ends, limit, lo=1, key=lambda end: _length(prompt[:end])) - 1]]
    if not kept.strip():
        raise ValueError(f"`max_prompt_length` must leave some text in {place_of(number)}, got {limit}. Raise it.")
    return kept
