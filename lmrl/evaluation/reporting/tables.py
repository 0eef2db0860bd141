"""Tables of scores and of completions for the terminal."""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..comparison import SIGNIFICANCE_LEVEL, Columns, Compared, compare_all
from ..encoding import Prompt
from ..scores import Score
from .wording import difference_text, number, p_value, prompt_text, score_text

if TYPE_CHECKING:
    from rich.table import Table


def scores_table(columns: Columns, compared: Compared | None = None) -> "Table":
    """
    Returns a table of metrics (rows) by checkpoints (columns), the first of which is the baseline.

    For every other checkpoint there is a column of differences from the baseline as well, with the interval of the
    paired bootstrap. A difference has a star if its p-value by approximate randomization, corrected for the number of
    comparisons (Holm), is below 0.05. For one or two checkpoints the table has the intervals of their values and this
    p-value, too.

    Args:
        columns (`dict` of `dict` of [`Score`]):
            Scores by metric, by the label of the checkpoint.
        compared (`dict`, *optional*):
            Result of [`compare_all`] for them; computed if not given.

    Returns:
        `rich.table.Table`; [`as_text`] makes it a string.

    Raises:
        `ValueError`: if there is no checkpoint, or two were scored on different numbers of rows.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if not columns:
        raise ValueError("`columns` must have at least 1 checkpoint, got 0. Pass the scores of a checkpoint.")
    compared = compare_all(columns) if compared is None else compared
    baseline = next(iter(columns))
    with_intervals = len(columns) <= 2
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("metric")
    for label in columns:
        table.add_column(Text(f"{label} [95% CI]" if with_intervals else label), justify="right")
    for label in compared:
        table.add_column(Text(f"{label} - {baseline} [95% CI]"), justify="right")
    if compared:
        table.caption = (
            f"* p < {SIGNIFICANCE_LEVEL:g} by approximate randomization, corrected for all comparisons (Holm)"
        )
        if with_intervals:
            table.add_column("p (Holm)", justify="right")
    for name in dict.fromkeys(name for scores in columns.values() for name in scores):
        scores = [metrics.get(name) for metrics in columns.values()]
        differences = [metrics.get(name) for metrics in compared.values()]
        cells = [score_text(score) if with_intervals else _value_text(score) for score in scores]
        cells += [_aligned(difference_text(difference)) for difference in differences]
        if compared and with_intervals:
            cells += [p_value(difference.p_corrected) if difference else "" for difference in differences]
        # Text, not str: rich would read "[...]" as markup.
        table.add_row(Text(name), *map(Text, cells))
    return table


def samples_table(
    prompts: Sequence[Prompt],
    references: Sequence[Sequence[str]] | None,
    completions: Mapping[str, Sequence[str]],
    rewards: Mapping[str, Sequence[float | str | None]] | None = None,
    n: int = 5,
) -> "Table":
    """
    Returns a table of the first `n` prompts with a reference and the text of each checkpoint under it.

    Args:
        prompts (list of `str`, or list of lists of messages):
            The prompts.
        references (list of lists of `str`, *optional*):
            References of each prompt, of which the first is shown.
        completions (`dict` of lists of `str`):
            One text per prompt, by the label of the checkpoint.
        rewards (`dict` of lists of `float` or `str`, *optional*):
            One reward per prompt, by the same labels; a `str` is shown unchanged.
        n (`int`, *optional*, defaults to `5`):
            Number of prompts.

    Returns:
        `rich.table.Table`; [`as_text`] makes it a string.

    Raises:
        `ValueError`: if a checkpoint has a number of texts other than the number of prompts.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    for label, texts in completions.items():
        if len(texts) != len(prompts):
            raise ValueError(
                f"`completions` must have {len(prompts)} texts for each checkpoint, got {len(texts)} for {label!r}. "
                "Pass one text per prompt."
            )
    table = Table("", "text", box=box.SIMPLE_HEAD)
    if rewards:
        table.add_column("reward", justify="right")
    for row in range(min(n, len(prompts))):
        lines = [("prompt", prompt_text(prompts[row]), "")]
        if references is not None:
            lines.append(("reference", references[row][0], ""))
        for label, texts in completions.items():
            reward = rewards[label][row] if rewards and label in rewards else None
            lines.append((label, texts[row].strip(), _reward_text(reward)))
        for line in lines:
            table.add_row(*map(Text, line if rewards else line[:2]), end_section=line is lines[-1])
    return table


def as_text(table: "Table", width: int = 120) -> str:
    """
    Returns the table as plain text without colours, at most `width` characters wide, with long texts wrapped.

    Args:
        table (`rich.table.Table`):
            The table.
        width (`int`, *optional*, defaults to `120`):
            Maximum number of characters in a line.

    Returns:
        `str`, without trailing spaces in its lines.
    """
    from io import StringIO

    from rich.console import Console

    console = Console(file=StringIO(), width=width, force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()).strip("\n")


def show(table: "Table") -> None:
    """Prints the table: in colours and as wide as the terminal, or as plain text if stdout is not a terminal."""
    from rich.console import Console

    console = Console(file=sys.stdout)
    if console.is_terminal:
        console.print(table)
    else:
        print(as_text(table))


def _value_text(score: Score | None) -> str:
    return "" if score is None else number(score.value)


def _aligned(text: str) -> str:
    """Returns the text with a space in place of a missing star, so that the numbers of a column stay aligned."""
    return text if text.endswith("*") or not text else f"{text} "


def _reward_text(reward: float | str | None) -> str:
    if reward is None:
        return ""
    return reward if isinstance(reward, str) else number(reward)
