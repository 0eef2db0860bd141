"""Texts of the checkpoints side by side, what differs from the baseline marked."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from ..evaluate import Evaluation
from ..generation import Completion
from ..rows import Row
from .axes import color
from .findings import is_rewarded
from .worddiff import Piece, word_diff
from .wording import number, prompt_text

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class _Change:
    """By how much a reward of a checkpoint differs from the baseline's, prompt by prompt."""

    name: str
    label: str
    by_row: list[float]


def samples_section(
    evaluations: Mapping[str, Evaluation],
    rows: "Dataset | Sequence[Row]",
    rewarded: Sequence[str],
    most: int,
) -> str:
    """
    Returns the samples as HTML, with a search field and an order to choose that work where scripts do.

    Args:
        evaluations (`dict` of [`Evaluation`]):
            What was measured, by label; the first is the baseline.
        rows (`datasets.Dataset` or list of `dict`):
            The rows that were completed.
        rewarded (list of `str`):
            Names of the rewards trained on, which come first among the orders.
        most (`int`):
            Most rows shown: if there are more, half of them are the first, a quarter those whose reward rose most,
            a quarter those whose reward fell most.
    """
    texts = {label: _first_samples(evaluation) for label, evaluation in evaluations.items()}
    in_all = set.intersection(*(set(found) for found in texts.values()))
    indices = [index for index in range(len(rows)) if index in in_all]
    changes = _changes(evaluations, rewarded)
    shown = _chosen(indices, changes[0].by_row if changes else [], most)
    if not shown:
        return ""
    cards = [_card(index, rows[index], texts, evaluations, changes) for index in shown]
    return "\n".join(
        [
            f'<p class="note">{_note(evaluations, len(shown), len(indices), bool(changes))}</p>',
            f'<div id="samples-list">{_controls(changes, len(cards))}<div class="list">{"".join(cards)}</div></div>',
        ]
    )


def _first_samples(evaluation: Evaluation) -> dict[int, Completion]:
    return {completion.row: completion for completion in evaluation.completions if completion.sample == 0}


def _changes(evaluations: Mapping[str, Evaluation], rewarded: Sequence[str]) -> list[_Change]:
    (_, base), *others = evaluations.items()
    names = [name for name in base.scores if name.startswith("reward/")]
    found = []
    for name in sorted(names, key=lambda name: not is_rewarded(name, rewarded)):
        for label, other in others:
            before = base.scores[name].row_scores
            after = other.scores[name].row_scores if name in other.scores else None
            if before and after and len(before) == len(after):
                by_row = [new - old for old, new in zip(before, after, strict=True)]
                found.append(_Change(name.removeprefix("reward/"), label, by_row))
    return found


def _chosen(indices: list[int], by_row: list[float], most: int) -> list[int]:
    if len(indices) <= most or not by_row:
        return indices[:most]
    chosen = set(indices[: most // 2])
    rest = [i for i in indices if i not in chosen and math.isfinite(by_row[i])]
    rest.sort(key=lambda i: by_row[i])
    chosen |= {*rest[: most // 4], *rest[max(0, len(rest) - most // 4) :]}
    return sorted(chosen)


def _note(evaluations: Mapping[str, Evaluation], shown: int, total: int, by_change: bool) -> str:
    words = f"{shown:,} of {total:,} prompts"
    if shown < total:
        words += ": the first, and those whose reward rose or fell most" if by_change else ": the first"
        words += "; the JSON files have all"
    words += "."
    if len(evaluations) > 1:
        words += " Words that the baseline lacks in this place are marked."
    if any(completion.sample for evaluation in evaluations.values() for completion in evaluation.completions):
        words += " Of each prompt the first sample is shown; scores are means over all its samples."
    return words


def _controls(changes: Sequence[_Change], count: int) -> str:
    options = ['<option value="">in the order of the data</option>']
    for column, change in enumerate(changes):
        for sign, way in ((-1, "rose most"), (1, "fell most")):
            options.append(
                f'<option value="{column}:{sign}">{escape(f"{change.name} of {change.label}: {way}")}</option>'
            )
    order = f'<select aria-label="Order">{"".join(options)}</select>' if changes else ""
    search = '<input type="search" placeholder="Search prompts and texts" aria-label="Search">'
    return f'<div class="controls">{search}{order}<output class="soft">{count} of {count}</output></div>'


def _card(
    index: int,
    row: Row,
    texts: Mapping[str, Mapping[int, Completion]],
    evaluations: Mapping[str, Evaluation],
    changes: Sequence[_Change],
) -> str:
    values = [change.by_row[index] for change in changes]
    pieces = _marked({label: found[index].text.strip() for label, found in texts.items()})
    columns = []
    for place, (label, evaluation) in enumerate(evaluations.items()):
        by_name = {change.name: value for change, value in zip(changes, values, strict=True) if change.label == label}
        scores = _row_scores(evaluation, texts[label][index], by_name)
        columns.append(
            f'<div><h3 class="label"><i class="{color(place)}"></i>{escape(label)}</h3>'
            f'<p class="text">{pieces[label]}</p><p class="score">{scores}</p></div>'
        )
    return (
        f'<article class="sample" data-changes="{",".join(f"{value:.6g}" for value in values)}">'
        f"<header>prompt {index + 1}</header>"
        f'<p class="prompt">{escape(prompt_text(row["prompt"]))}</p>{_references(row)}'
        f'<div class="texts">{"".join(columns)}</div></article>\n'
    )


def _marked(texts: Mapping[str, str]) -> dict[str, str]:
    """Returns the texts as HTML; of two checkpoints the baseline shows what was taken away, too."""
    (baseline, base), *others = texts.items()
    html = {baseline: escape(base)}
    for label, text in others:
        gone, new = word_diff(base, text)
        html[label] = _pieces(new, "mark")
        if len(others) == 1:
            html[baseline] = _pieces(gone, "del")
    return {label: text or '<span class="empty">no text</span>' for label, text in html.items()}


def _pieces(pieces: Sequence[Piece], tag: str) -> str:
    return "".join(f"<{tag}>{escape(text)}</{tag}>" if changed else escape(text) for text, changed in pieces)


def _row_scores(evaluation: Evaluation, completion: Completion, changes: Mapping[str, float]) -> str:
    """Returns the rewards of a text as HTML, each with its change from the baseline's, and its length."""
    words = []
    for name, score in evaluation.scores.items():
        if name.startswith("reward/") and score.row_scores and completion.row < len(score.row_scores):
            reward = name.removeprefix("reward/")
            words.append(f"{escape(reward)} {number(score.row_scores[completion.row])}{_change(changes.get(reward))}")
    words.append(f"{completion.length} tokens{'' if completion.finished else ', unfinished'}")
    return " · ".join(words)


def _change(value: float | None) -> str:
    if value is None or not math.isfinite(value) or value == 0:
        return ""
    return f' <span class="{"good" if value > 0 else "bad"}">{number(value, sign="+")}</span>'


def _references(row: Row) -> str:
    references: Any = row.get("references")
    if not references:
        return ""
    if len(references) == 1:
        return f'<p class="refs">{escape(str(references[0]))}</p>'
    items = "".join(f"<li>{escape(str(reference))}</li>" for reference in references)
    return f'<details class="refs"><summary>{len(references)} references</summary><ol>{items}</ol></details>'
