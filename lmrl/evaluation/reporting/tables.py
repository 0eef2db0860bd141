"""Tables of scores and of completions for the terminal."""

import math
import re
import sys
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any

from lmrl.display.wording import number, p_value

from ..comparison import Columns, Compared, Pairs, compare_all, difference_text, score_text, star_note
from ..encoding import prompt_text
from ..evaluate import Evaluation
from ..roles import is_reward, row_rewards, split_by_role
from ..rows import Rows

if TYPE_CHECKING:  # rich is loaded for a terminal alone
    from rich.table import Table

# All control characters but tab and line feed, as a terminal would execute escape sequences in a text.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def scores_table(columns: Columns, compared: Compared | None = None) -> "Table":
    """
    Returns a table with a row per metric and a column per checkpoint, the first of which is the baseline. [`as_text`]
    turns it into a string.

    For every other checkpoint there is a column of differences from the baseline as well, with the interval of the
    paired bootstrap, and one of p-values by approximate randomization, corrected for the number of comparisons of the
    primary metrics (Holm). A difference has a star if this p-value is below 0.05. The exploratory metrics follow below
    a line, without p-values. For one or two checkpoints the table has the intervals of their values, too.

    Args:
        columns (`dict` of `dict` of [`Score`]), compared (`dict`, *optional*):
            Scores as `[label][metric]`, and the result of [`compare_all`] for them.

    Raises:
        `ValueError`: if there is no checkpoint, or two were scored on different numbers of rows.
    """
    compared = compare_all(columns) if compared is None else compared
    baseline = next(iter(columns))
    with_intervals = len(columns) <= 2
    lines = [["metric", *(f"{label} [95% CI]" if with_intervals else label for label in columns)]]
    for label in compared:
        lines[0] += [f"{label} - {baseline} [95% CI]", "p (Holm)"]
    primary, exploratory = split_by_role(dict.fromkeys(n for scores in columns.values() for n in scores), compared)
    for name in [*primary, *exploratory]:
        if exploratory and name == exploratory[0]:
            lines += [[], ["exploratory:"]]
        scores = [metrics.get(name) for metrics in columns.values()]
        cells = [score_text(score) if with_intervals else number(score.value) if score else "" for score in scores]
        for metrics in compared.values():
            difference = metrics.get(name)
            cells += [_aligned(difference_text(difference)), p_value(difference.p_corrected) if difference else ""]
        lines.append([name, *cells])
    return make_table(lines, caption=star_note(compared.values(), bool(exploratory)) if compared else None)


def pairs_table(pairs: Pairs) -> "Table":
    """Returns a table of the primary metrics' differences between pairs of checkpoints, made by [`compare_pairs`]."""
    lines = [["metric", "pair", "difference [95% CI]", "p (Holm)"]]
    names = dict.fromkeys(name for found in pairs.values() for name in found if found[name].primary)
    for name in names:
        for (first, second), found in pairs.items():
            if name in found:
                difference = _aligned(difference_text(found[name]))
                lines.append([name, f"{second} - {first}", difference, p_value(found[name].p_corrected)])
        lines.append([])
    return make_table(lines, left=2, caption=star_note(pairs.values(), False))


def samples_table(evaluations: Mapping[str, Evaluation], rows: Rows, n: int = 5) -> "Table":
    """
    Returns a table of the first `n` prompts, each with a reference, its first completion in each evaluation, and the
    rewards. Evaluations and rows are those of [`report`].
    """
    has_rewards = any(is_reward(name) for found in evaluations.values() for name in found.scores)
    lines = [["", "text", "reward"]]
    for index in range(min(n, len(rows))):
        row = rows[index]
        lines.append(["prompt", prompt_text(row["prompt"]), ""])
        if row.get("references"):
            lines.append(["reference", row["references"][0], ""])
        for label, evaluation in evaluations.items():
            texts = [found.text.strip() for found in evaluation.completions if (found.row, found.sample) == (index, 0)]
            lines += [[label, text, _rewards_text(evaluation, index)] for text in texts]
        lines.append([])
    shown = [[_CONTROLS.sub("", cell) for cell in line[: 3 if has_rewards else 2]] for line in lines]
    return make_table(shown, left=2)


def make_table(lines: Sequence[Sequence[str]], left: int = 1, **settings: Any) -> "Table":
    """
    Returns a table for the terminal.

    Args:
        lines (list of lists of `str`):
            The names of the columns, then the lines; an empty line is a divider.
        left (`int`, *optional*, defaults to `1`):
            Number of left-aligned columns; the others are right-aligned.
        **settings:
            Title and caption, as `rich.table.Table` takes them.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, **settings)
    for place, name in enumerate(lines[0]):
        table.add_column(Text(name), justify="left" if place < left else "right")
    for line in lines[1:]:
        if line:
            table.add_row(*map(Text, line))  # Text, not str: rich would read "[...]" as markup
        else:
            table.add_section()
    return table


def as_text(table: "Table", width: int = 120) -> str:
    """Returns a table as plain text, at most `width` characters wide; longer texts are wrapped."""
    from rich.console import Console

    stream = StringIO()
    Console(file=stream, width=width, force_terminal=False, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()).strip("\n")


def show(table: "Table") -> None:
    """Prints the table: in colours and as wide as the terminal, or as plain text if stdout is not a terminal."""
    from rich.console import Console

    console = Console(file=sys.stdout)
    if console.is_terminal:
        console.print(table)
    else:
        print(as_text(table))


def _aligned(text: str) -> str:
    """Returns the text with a space in place of a missing star, so that the numbers of a column stay aligned."""
    return text if text.endswith("*") or not text else f"{text} "


def _rewards_text(evaluation: Evaluation, row: int) -> str:
    """Returns the rewards of a row, each on a line of its own: `bleu 0.43`."""
    return "\n".join(
        f"{name} {'n/a' if math.isnan(value) else f'{value:.2f}'}" for name, value in row_rewards(evaluation, row)
    )
