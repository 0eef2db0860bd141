"""Rows that the trainers take: a "prompt", "references" where there are any, and the columns that rewards read."""

import json
import logging
import random
import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from lmrl.data.cells import Prompt, check_column, fill_template, make_prompt, make_references, template_fields
from lmrl.data.sources import read_split

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

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
) -> "Dataset":
    """
    Returns the rows of a split with a "prompt" column, "references" where there are any, and every other column.

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
            Columns of CSV and TSV files that have no header. Defaults to what their first line names.
        prompt_template (`str`, *optional*):
            Makes the prompt of columns: `"{mr} ->"`. `{{` and `}}` are literal braces.
        prompt_column (`str`, *optional*, defaults to `"prompt"`):
            The prompt where there is no template: text, or a list of chat messages, taken as it is.
        reference_column (`str`, *optional*):
            Text or list of texts that becomes `"references"`. Without it, a column `"references"` is used if there.
        chat (`bool`, *optional*, defaults to `False`):
            Whether a text prompt becomes a chat with one user message.
        system_prompt (`str`, *optional*):
            First message of every chat. Implies `chat`.
        max_rows (`int`, *optional*):
            Reads only the first rows.

    Returns:
        `datasets.Dataset`, at least one row.

    Raises:
        FileNotFoundError: If there is nothing by that name.
        ValueError: If the data cannot be read or a prompt or reference is missing; rows are counted from 0.
    """
    from datasets import Dataset, concatenate_datasets

    if max_rows is not None and max_rows < 1:
        raise ValueError(f"max_rows is {max_rows}, but must be at least 1: leave it out to read all rows")
    if dataset_name == "demo":
        rows = _read_demo(dataset_name, dataset_config, split)
    else:
        rows = read_split(dataset_name, dataset_config, split, column_names)
    if not len(rows):
        raise ValueError(f"{dataset_name!r}, split {split!r}, has 0 rows; at least 1 is needed: check the file")
    rows = rows.select(range(min(max_rows or len(rows), len(rows))))
    made: dict[str, list[Any]] = {"prompt": _prompts(rows, prompt_template, prompt_column, chat, system_prompt)}
    if reference_column is not None or "references" in rows.column_names:
        column = reference_column or "references"
        check_column(column, rows.column_names, "reference_column")
        made["references"] = [make_references(value, number, column) for number, value in enumerate(rows[column])]
    others = [name for name in rows.column_names if name not in made]
    front = Dataset.from_dict(made)
    return concatenate_datasets([front, rows.select_columns(others)], axis=1) if others else front


def split_held_out(dataset: "Dataset", eval_rows: int, seed: int) -> "tuple[Dataset, Dataset]":
    """
    Returns the rows to train on and held-out rows, for data that comes without a held-out split.

    Rows with the same prompt stay on one side. Where that leaves no way to take exactly `eval_rows`, fewer are held
    out, never more.

    Args:
        dataset (`datasets.Dataset`):
            Rows with a "prompt".
        eval_rows (`int`):
            Rows to hold out, at least 1.
        seed (`int`):
            Chooses them. The order of the rows is kept on both sides.

    Returns:
        `tuple[datasets.Dataset, datasets.Dataset]`, train and held out.

    Raises:
        ValueError: If `eval_rows` leaves nothing on one of the sides.
    """
    if not 1 <= eval_rows < len(dataset):
        raise ValueError(
            f"eval_rows is {eval_rows}, but must be from 1 to {len(dataset) - 1}, as there are {len(dataset)} rows"
        )
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for number, prompt in enumerate(dataset["prompt"]):
        groups[json.dumps(prompt, sort_keys=True)].append(number)
    shuffled = list(groups.values())
    random.Random(seed).shuffle(shuffled)
    held_out: set[int] = set()
    for group in shuffled:
        if len(held_out) + len(group) <= eval_rows:
            held_out.update(group)
    if not held_out:
        raise ValueError(
            f"eval_rows is {eval_rows}, but every prompt is repeated, at least {min(map(len, shuffled))} times, and "
            "rows with the same prompt stay together: raise eval_rows"
        )
    kept = [number for number in range(len(dataset)) if number not in held_out]
    return dataset.select(kept), dataset.select(sorted(held_out))


def fit_prompts(
    dataset: "Dataset",
    tokenizer: "PreTrainedTokenizerBase",
    max_prompt_length: int,
    long_prompts: Literal["error", "drop", "cut", "cut_end"] = "error",
) -> "Dataset":
    """
    Returns the rows, none with a prompt of more than `max_prompt_length` tokens.

    Args:
        dataset (`datasets.Dataset`):
            Rows with a "prompt".
        tokenizer (`PreTrainedTokenizerBase`):
            Counts tokens as the trainers do: special tokens and, for chats, the generation prompt included.
        max_prompt_length (`int`):
            Tokens that a prompt may have.
        long_prompts (`str`, *optional*, defaults to `"error"`):
            What happens to longer ones: `"error"` refuses them, `"drop"` drops the rows, `"cut"` keeps the longest end
            of the text that fits, `"cut_end"` the words of its beginning that fit, to be gone on with (text prompts
            only).

    Returns:
        `datasets.Dataset`.

    Raises:
        ValueError: If prompts are too long and refused, cannot be cut, or all of them would be dropped.
    """
    if max_prompt_length < 1:
        raise ValueError(f"max_prompt_length is {max_prompt_length}, but must be at least 1")
    if long_prompts not in ("error", "drop", "cut", "cut_end"):
        raise ValueError(f"long_prompts is {long_prompts!r}, but must be 'error', 'drop', 'cut' or 'cut_end'")
    prompts = list(dataset["prompt"])
    lengths = [_token_count(prompt, tokenizer) for prompt in prompts]
    long = [number for number, length in enumerate(lengths) if length > max_prompt_length]
    if not long:
        return dataset
    found = f"{len(long)} of {len(prompts)} prompts are longer than max_prompt_length={max_prompt_length} tokens"
    found += f" (the longest has {max(lengths)}; the first is row {long[0]}, counting from 0, with {lengths[long[0]]})"
    if long_prompts == "error":
        raise ValueError(
            f"{found}: raise max_prompt_length, lower max_completion_length where the model's context is the limit, "
            "or set long_prompts to 'drop', 'cut' or 'cut_end'"
        )
    if long_prompts == "drop":
        if len(long) == len(prompts):
            raise ValueError(f"{found}, so that none would be left: raise max_prompt_length")
        logger.warning("%s: these rows are dropped, %d are left", found, len(prompts) - len(long))
        return dataset.select([number for number, length in enumerate(lengths) if length <= max_prompt_length])
    for number in long:
        prompts[number] = _cut(prompts[number], tokenizer, max_prompt_length, number, long_prompts)
    logger.warning("%s: their %s are cut off", found, "beginnings" if long_prompts == "cut" else "ends")
    names = dataset.column_names
    # Added before the old one is removed: without any column a dataset would have no rows.
    cut = dataset.add_column("cut prompt", prompts).remove_columns("prompt").rename_column("cut prompt", "prompt")
    return cut.select_columns(names)


def to_supervised(dataset: "Dataset", completion_prefix: str = " ") -> "Dataset":
    """
    Returns one row with a "prompt" and a "completion" per reference, for `trl.SFTTrainer`.

    Args:
        dataset (`datasets.Dataset`):
            Rows with a "prompt" and "references".
        completion_prefix (`str`, *optional*, defaults to `" "`):
            Goes between a text prompt and its completion, as part of the completion, unless the prompt ends in white
            space. Chats have no such seam.

    Returns:
        `datasets.Dataset` with these two columns; the completion of a chat is a list with one assistant message.

    Raises:
        ValueError: If there is no "references" column.
    """
    from datasets import Dataset

    if "references" not in dataset.column_names:
        raise ValueError(
            "supervised fine-tuning needs 'references', one completion each; the columns are "
            f"{dataset.column_names}: pass reference_column to load_prompts"
        )
    prompts: list[Prompt] = []
    completions: list[Prompt] = []
    for prompt, references in zip(dataset["prompt"], dataset["references"], strict=True):
        for text in references:
            prompts.append(prompt)
            if isinstance(prompt, str):
                completions.append(text if prompt[-1:].isspace() else completion_prefix + text)
            else:
                completions.append([{"role": "assistant", "content": text}])
    return Dataset.from_dict({"prompt": prompts, "completion": completions})


def _read_demo(name: str, config: str | None, split: str) -> "Dataset":
    """Returns a split of the embedded corpus."""
    from datasets import Dataset

    from lmrl.data.demo import demo_rows

    if config is not None:
        raise ValueError(f"dataset_config is {config!r}, but {name!r} has no configurations: leave it out")
    return Dataset.from_list(demo_rows(split))


def _prompts(
    rows: "Dataset", template: str | None, column: str, chat: bool, system_prompt: str | None
) -> list[Prompt]:
    """Returns the prompt of every row, checked."""
    if template is None:
        check_column(column, rows.column_names, "prompt_column (or make the prompt with prompt_template)")
        raw = list(rows[column])
    else:
        fields = template_fields(template, rows.column_names)
        raw = [fill_template(template, fields, row, number) for number, row in enumerate(rows)]
    return [make_prompt(prompt, number, chat, system_prompt) for number, prompt in enumerate(raw)]


def _token_count(prompt: Prompt, tokenizer: "PreTrainedTokenizerBase") -> int:
    """Returns the tokens of a prompt as TRL makes them."""
    if isinstance(prompt, str):
        return len(tokenizer(text=prompt)["input_ids"])
    tokens = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True, return_dict=True)
    return len(tokens["input_ids"])


def _cut(prompt: Prompt, tokenizer: "PreTrainedTokenizerBase", limit: int, number: int, how: str) -> str:
    """Returns the longest end, or the longest beginning of whole words, that has at most `limit` tokens."""
    where = f"row {number} (the first is 0)"
    if not isinstance(prompt, str):
        raise ValueError(f"{where}: a chat cannot be cut, as its template would break: set long_prompts to 'drop'")
    # Characters of the text are cut, not tokens of it: that never leaves half a character, and what is returned is
    # what was counted, while some of the tokens, decoded, may tokenise into more of them.
    if how == "cut":
        starts = range(len(prompt))
        kept = prompt[bisect_left(starts, True, key=lambda start: _token_count(prompt[start:], tokenizer) <= limit) :]
    else:
        ends = [0, *(word.end() for word in re.finditer(r"\S+", prompt))]
        kept = prompt[: ends[bisect_right(ends, limit, key=lambda end: _token_count(prompt[:end], tokenizer)) - 1]]
    if not kept.strip():
        raise ValueError(f"{where}: nothing of the prompt fits into max_prompt_length={limit}: raise it")
    return kept
