"""The page a person opens after training: one HTML file that needs nothing else, not even a network."""

import base64
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from ..comparison import Compared, Difference, bootstrap_interval, compare_all
from ..evaluate import Evaluation
from ..matching import matched
from ..metrics import Score
from ..rows import Row, data_signature
from .axes import color
from .curves import POINTS, Log
from .figures import change_chart, frontier_charts, histograms, training_charts
from .findings import Findings, find_warnings, is_rewarded, measured_rewards
from .samples import samples_section
from .wording import direction, listed, number, p_value, with_interval

if TYPE_CHECKING:
    from datasets import Dataset

_HERE = Path(__file__).parent

# The held-out metric people look for first, as far as it was not trained on.
_HEADLINES = ("bleu", "rougeL", "chrf", "meteor")


def write_page(
    path: str | os.PathLike[str],
    evaluations: Mapping[str, Evaluation],
    rows: "Dataset | Sequence[Row]",
    *,
    logs: Mapping[str, Log] | None = None,
    config: Mapping[str, Any] | None = None,
    rewarded: Sequence[str] | None = None,
    title: str = "Evaluation",
    max_samples: int = 200,
    compared: Compared | None = None,
) -> None:
    """
    Writes what was measured as one HTML file: warnings, scores, charts, samples side by side, settings.

    The file asks nothing of the network and runs no script but its own (a content security policy says so); without
    scripts it is the same page with its samples in a plain list. The same arguments give the same bytes.

    Args:
        path (`str` or `os.PathLike`):
            The file; its folder is made if need be.
        evaluations (`dict` of [`Evaluation`]):
            What was measured, by label; the first is the baseline.
        rows (`datasets.Dataset` or list of `dict`):
            The rows that were completed.
        logs (`dict` of log histories, *optional*):
            Of the training runs, by label, as [`read_log`] gives them.
        config (`dict`, *optional*):
            Settings to show at the end, maybe nested by one level. Values of keys that end in `_token` are hidden.
        rewarded (list of `str`, *optional*):
            Names of the rewards trained on; by default all that were measured as `reward/<name>`.
        title (`str`, *optional*, defaults to `"Evaluation"`):
            Heading of the page.
        max_samples (`int`, *optional*, defaults to `200`):
            Most rows whose texts are shown; the page says which of how many.
        compared (`dict`, *optional*):
            What [`compare_all`] gives of the scores, if that is there already.

    Raises:
        `ValueError`: if there is no checkpoint, or two were evaluated on different rows.
    """
    if not evaluations:
        raise ValueError("There are 0 checkpoints, but a page needs at least 1.")
    evaluations = matched(evaluations)
    rewarded = measured_rewards(evaluations) if rewarded is None else list(rewarded)
    logs = {label: log for label, log in (logs or {}).items() if log}
    # A run whose label is that of a checkpoint has its colour.
    in_color = {label: logs.get(label, []) for label in evaluations} | logs if {*logs} & {*evaluations} else logs
    if compared is None:
        compared = compare_all({label: evaluation.scores for label, evaluation in evaluations.items()})
    sections = {
        "Scores": _scores_section(evaluations, compared, rewarded),
        "Distributions": _charts(histograms(evaluations)),
        "Training": _training_section(in_color),
        "Reward against KL": _frontier_section(evaluations, in_color, rewarded),
        "Samples": samples_section(evaluations, rows, rewarded, max_samples),
        "Settings": _settings_section(evaluations, config or {}),
    }
    shown = {name: html for name, html in sections.items() if html}
    body = [
        _header(evaluations, title, list(shown)),
        "<main>",
        _findings_box(find_warnings(evaluations, logs=logs, rewarded=rewarded, compared=compared)),
        _tiles(evaluations, compared, rewarded),
        *(f'<section id="{_anchor(name)}">\n<h2>{name}</h2>\n{html}\n</section>' for name, html in shown.items()),
        '<footer class="end">Written by lmrl.</footer>',
        "</main>",
    ]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_page(title, "\n".join(body)), encoding="utf-8", errors="replace")


def _page(title: str, body: str) -> str:
    style, script, page = ((_HERE / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js", "html"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template(page).substitute(
        title=escape(title), style=style, script=script, script_hash=f"sha256-{digest}", body=body
    )


def _header(evaluations: Mapping[str, Evaluation], title: str, sections: Sequence[str]) -> str:
    baseline, *others = (_label(place, label) for place, label in enumerate(evaluations))
    first = next(iter(evaluations.values()))
    prompts = len({completion.row for completion in first.completions})
    what = f"{listed(others)} compared with {baseline}" if others else baseline
    parts = [f"{what} on {prompts:,} prompt{'s' * (prompts != 1)}", _decoding(first.decoding)]
    links = "".join(f'<a href="#{_anchor(name)}">{name}</a>' for name in sections)
    lead = " · ".join(part for part in parts if part)
    return f'<header>\n<h1>{escape(title)}</h1>\n<p class="lead">{lead}</p>\n<nav>{links}</nav>\n</header>'


def _decoding(decoding: Mapping[str, Any]) -> str:
    if not decoding:
        return ""
    how = "greedy decoding"
    if decoding.get("do_sample"):
        how = f"{decoding.get('num_samples', 1)} sampled at temperature {decoding.get('temperature', 1.0):g}"
    elif decoding.get("num_beams", 1) > 1:
        how = f"beam search with {decoding['num_beams']} beams"
    return escape(f"{how}, at most {decoding.get('max_new_tokens')} tokens")


def _findings_box(findings: Findings) -> str:
    if not findings.warnings:
        return f'<div class="box clear" id="warnings">{escape(findings.summary)}</div>'
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in findings.warnings)
    return (
        f'<div class="box warned" id="warnings"><h2>Look at this first</h2><ul>{items}</ul>'
        f'<p class="note">{escape(findings.summary)}</p></div>'
    )


def _tiles(evaluations: Mapping[str, Evaluation], compared: Compared, rewarded: Sequence[str]) -> str:
    """Returns the four numbers one asks for first; with several checkpoints to compare, the table has them."""
    if len(evaluations) != 2:
        return ""
    before, after = (evaluation.scores for evaluation in evaluations.values())
    (found,) = compared.values()
    rewards = [name for name in found if name.startswith("reward/") and is_rewarded(name, rewarded)]
    held_out = [n for n in found if not is_rewarded(n, rewarded) and after[n].higher_is_better]
    held_out.sort(key=lambda name: _HEADLINES.index(name) if name in _HEADLINES else len(_HEADLINES))
    names = [*rewards[:1], *held_out[:1], *(name for name in ("length", "kl") if name in found), *rewards[1:]]
    tiles = [_tile(before[name], after[name], found[name]) for name in names[:4]]
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def _tile(before: Score, after: Score, difference: Difference) -> str:
    return (
        f'<div class="tile"><div class="name">{escape(after.name)} {direction(after.higher_is_better)}</div>'
        f'<div class="now"><span class="was">{number(before.value)} →</span> {number(after.value)}</div>'
        f'<div class="change">{_change(difference, after.higher_is_better)}</div></div>'
    )


def _scores_section(evaluations: Mapping[str, Evaluation], found: Compared, rewarded: Sequence[str]) -> str:
    head = ['<th scope="col">metric</th>']
    for place, label in enumerate(evaluations):
        head.append(f'<th scope="col">{_label(place, label)}</th>')
        if place:
            head.append('<th scope="col">difference</th><th scope="col">p</th>')
    names = dict.fromkeys(name for evaluation in evaluations.values() for name in evaluation.scores)
    body = [_score_row(name, evaluations, found, rewarded) for name in names]
    note = "With 95 % bootstrap intervals over prompts. Arrows say which way is better; open a name for what exactly "
    note += "was computed."
    if found:
        note += " Differences have a triangle where their corrected p is below 0.05: ▲ better, "
        note += "▼ worse. p is of approximate randomization, corrected for the number of metrics (Holm)."
    return "\n".join(
        [
            f'<p class="note">{note}</p>',
            f'<div class="card scroll"><table><thead><tr>{"".join(head)}</tr></thead>',
            f"<tbody>{''.join(body)}</tbody></table></div>",
            _charts(change_chart(evaluations, found)),
        ]
    )


def _label(place: int, label: str) -> str:
    return f'<span class="label"><i class="{color(place)}"></i>{escape(label)}</span>'


def _score_row(
    name: str,
    evaluations: Mapping[str, Evaluation],
    found: Compared,
    rewarded: Sequence[str],
) -> str:
    cells = []
    for label, evaluation in evaluations.items():
        score = evaluation.scores.get(name)
        cells.append(f"<td>{'' if score is None else _value(score)}</td>")
        if label in found:
            difference = found[label].get(name)
            change = difference and _change(difference, score.higher_is_better if score else None)
            cells.append(f"<td>{change or ''}</td><td>{p_value(difference.p_corrected) if difference else ''}</td>")
    score = next(evaluation.scores[name] for evaluation in evaluations.values() if name in evaluation.scores)
    chip = '<span class="chip">trained on</span>' if is_rewarded(name, rewarded) else ""
    summary = f"{escape(name)} {direction(score.higher_is_better)}{chip}"
    details = f"<details><summary>{summary}</summary><code>{escape(score.signature)}</code></details>"
    return f'<tr><th scope="row" title="{escape(score.signature)}">{details}</th>{"".join(cells)}</tr>\n'


def _value(score: Score) -> str:
    interval = bootstrap_interval(score)
    if math.isnan(interval.low):
        return number(score.value)
    return f'{number(score.value)}<small class="own">{number(interval.low)} to {number(interval.high)}</small>'


def _change(difference: Difference, higher_is_better: bool | None) -> str:
    kind = ""
    if difference.significant and higher_is_better is not None:
        kind = "good" if (difference.effect > 0) == higher_is_better else "bad"
    text, _, interval = with_interval(*difference.interval).partition(" ")
    return f'<span class="{kind}">{text}</span><small>{interval}</small>'


def _charts(charts: Sequence[str]) -> str:
    cards = "".join(f'<div class="card">{chart}</div>\n' for chart in charts)
    return f'<div class="charts">{cards}</div>' if cards else ""


def _training_section(logs: Mapping[str, Log]) -> str:
    long = any(len(log) > POINTS for log in logs.values())
    note = (
        f'<p class="note">Of more than {POINTS} values the means of neighbouring steps are drawn.</p>' if long else ""
    )
    charts = _charts(training_charts(logs))
    return f"{note}{charts}" if charts else ""


def _frontier_section(evaluations: Mapping[str, Evaluation], logs: Mapping[str, Log], rewarded: Sequence[str]) -> str:
    charts = _charts(frontier_charts(evaluations, logs, rewarded))
    note = "What a gain in reward cost in distance from the reference policy. Further up and further left is better."
    return f'<p class="note">{note}</p>{charts}' if charts else ""


def _settings_section(evaluations: Mapping[str, Evaluation], config: Mapping[str, Any]) -> str:
    signatures = {
        name: " / ".join(dict.fromkeys(e.scores[name].signature for e in evaluations.values() if name in e.scores))
        for name in dict.fromkeys(name for evaluation in evaluations.values() for name in evaluation.scores)
    }
    parts: dict[str, Mapping[str, Any]] = {key: part for key, part in config.items() if isinstance(part, Mapping)}
    parts["Configuration"] = {key: value for key, value in config.items() if not isinstance(value, Mapping)}
    parts |= {f"Decoding of {label}": evaluation.decoding for label, evaluation in evaluations.items()}
    parts["Data"] = data_signature(next(iter(evaluations.values())).row_ids)  # matched: the rows of all
    parts["Signatures of the metrics"] = signatures
    return "\n".join(
        f'<details class="card"><summary>{escape(name)}</summary>{_list(part)}</details>'
        for name, part in parts.items()
        if part
    )


def _list(values: Mapping[str, Any]) -> str:
    items = []
    for key, value in values.items():
        shown = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
        if key.endswith("_token") and isinstance(value, str):
            shown = "hidden"  # as Trainer does: it may open an account
        items.append(f"<dt>{escape(key)}</dt><dd><code>{escape(shown)}</code></dd>")
    return f"<dl>{''.join(items)}</dl>"


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")
