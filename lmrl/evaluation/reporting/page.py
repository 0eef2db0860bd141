"""The report as one HTML file without external resources."""

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmrl.display.axes import colors_of
from lmrl.display.charts import training_charts
from lmrl.display.curves import POINTS, Log
from lmrl.display.wording import setting_text
from lmrl.settings import without_secrets

from ..comparison import Compared, Difference, Pairs
from ..evaluate import TOTAL_REWARD, Evaluation
from ..generation import decoding_text
from ..matching import matched
from ..roles import (
    compare_evaluations,
    is_quality,
    is_reward,
    is_rewarded,
    measured_rewards,
    metrics_of,
    split_by_role,
)
from ..rows import Rows, data_signature
from ..scores import Score, length_unit
from .figures import change_chart, frontier_charts, histograms, optimizer_charts
from .findings import find_warnings
from .samples import collect_rollouts, collect_samples
from .templating import TEMPLATES, render

# Stands in for checkpoints if there are only logs.
NO_EVALUATION = Evaluation([], {}, {})

# Held-out metrics for the tiles at the top of the page, in order of preference.
_HEADLINES = ("bleu", "rougeL", "chrf", "meteor")


def write_page(
    path: str | os.PathLike[str],
    evaluations: Mapping[str, Evaluation],
    rows: Rows,
    *,
    logs: Mapping[str, Log] | None = None,
    config: Mapping[str, Any] | None = None,
    rewarded: Sequence[str] | None = None,
    title: str = "Evaluation",
    max_samples: int = 200,
    compared: Compared | None = None,
    primary: Sequence[str] | None = None,
    rollouts: Sequence[Mapping[str, Any]] | Mapping[str, Sequence[Mapping[str, Any]]] = (),
    differing: Mapping[str, Mapping[str, Any]] | None = None,
    pairs: Pairs | None = None,
    curves: Sequence[str] | None = None,
) -> None:
    """
    Writes evaluations and logs as one HTML file: warnings, scores, charts, samples side by side, rollouts, settings.

    The file loads nothing from the network and runs no script but its own, which a content security policy enforces.
    Without scripts it shows the same, with the samples as a plain list. Equal arguments give equal files.

    Args:
        path (`str` or `os.PathLike`):
            The file; its folder is created if needed.
        evaluations, rows, logs, rewarded, title:
            As for [`report`].
        config (`dict`, *optional*):
            Settings to show at the end, may be nested by one level; [`~lmrl.settings.without_secrets`] hides secrets.
        max_samples (`int`, *optional*, defaults to `200`):
            Maximum number of rows whose completions are shown; of the rollouts, three times as many completions.
        compared (`dict`, *optional*):
            Result of [`compare_all`] for the scores; computed if not given. Pass an empty one to compare nothing, as
            for checkpoints that were evaluated on different rows.
        primary (list of `str`, *optional*):
            Names of the metrics to test if `compared` is not given, as for [`report`].
        pairs (`dict`, *optional*):
            Result of [`compare_pairs`] for a table of all pairs of checkpoints.
        rollouts (list of `dict`, or `dict` of such lists, *optional*):
            Lines of the `rollouts.jsonl` of a run ([`~lmrl.rollouts.read_rollouts`]), or of several by their labels.
        differing (`dict` of `dict`, *optional*), curves (list of `str`, *optional*):
            Settings that differ between runs, by name and label; training charts in place of those of `logs`.

    Raises:
        `ValueError`: if there is neither a checkpoint nor a log, or two checkpoints were evaluated on different rows.
    """
    logs = {label: log for label, log in (logs or {}).items() if log}
    if not evaluations and not logs:
        raise ValueError("`evaluations` must have at least 1 checkpoint, got 0. Pass an evaluation, or a log.")
    evaluations = matched(evaluations) if compared is None else evaluations
    rewarded = measured_rewards(evaluations) if rewarded is None else list(rewarded)
    evaluations = evaluations or {"": NO_EVALUATION}
    if compared is None:
        compared = compare_evaluations(evaluations, rewarded, primary)
    baseline, *others = evaluations
    is_comparable = len(compared) == len(others)
    checked = evaluations if is_comparable else {"": NO_EVALUATION}
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    metrics = metrics_of(evaluations)
    tested, exploratory = split_by_role(metrics, compared)
    context = {
        "title": title,
        "style": style,
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "colors": colors_of(dict.fromkeys(filter(None, [*evaluations, *logs]))),
        "runs": list(logs),
        "steps": max((int(row.get("step", 0)) for log in logs.values() for row in log), default=0),
        "is_comparable": is_comparable,
        "baseline": baseline,
        "others": others,
        "prompts": evaluations[baseline].num_prompts,
        "decoding": decoding_text(evaluations[baseline].decoding),
        "findings": find_warnings(checked, logs=logs, rewarded=rewarded, compared=compared),
        "tiles": _tiles(evaluations, compared, rewarded),
        "evaluations": evaluations,
        "compared": compared,
        "pairs": pairs or {},
        "metrics": {name: metrics[name] for name in [*tested, *exploratory]},
        "length_unit": length_unit(metrics),
        "primary": tested,
        "exploratory": exploratory,
        "rewarded": rewarded,
        "is_rewarded": is_rewarded,
        "settings": _settings(evaluations, without_secrets(config or {}), is_comparable),
        **_charts(evaluations, compared, logs, rewarded),
        **({} if curves is None else {"training_charts": list(curves)}),
        "differing": _texts(without_secrets(differing or {})),
        **collect_samples(checked, rows, rewarded, max_samples),
        **collect_rollouts(rollouts if isinstance(rollouts, Mapping) else {"": rollouts}, 3 * max_samples),
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render("page.html", **context), encoding="utf-8", errors="replace")


def _tiles(
    evaluations: Mapping[str, Evaluation], compared: Compared, rewarded: Sequence[str]
) -> list[tuple[Score, Score, Difference]]:
    """Returns up to four scores before and after, with their differences; none unless there are two checkpoints."""
    if len(evaluations) != 2 or not compared:
        return []
    before, after = (evaluation.scores for evaluation in evaluations.values())
    (differences,) = compared.values()
    rewards = [name for name in differences if is_reward(name) and is_rewarded(name, rewarded)]
    rewards.sort(key=lambda name: name != TOTAL_REWARD)
    held_out = [n for n in differences if not is_rewarded(n, rewarded) and is_quality(after[n])]
    held_out.sort(key=lambda name: _HEADLINES.index(name) if name in _HEADLINES else len(_HEADLINES))
    costs = [name for name in ("length", "kl") if name in differences]
    names = [*rewards[:1], *held_out[: 1 if rewards else 3], *costs, *rewards[1:]]
    return [(before[name], after[name], differences[name]) for name in names[:4]]


def _charts(
    evaluations: Mapping[str, Evaluation], compared: Compared, logs: Mapping[str, Log], rewarded: Sequence[str]
) -> dict[str, Any]:
    # A run with the label of a checkpoint gets the same colour.
    colored = logs
    if {*logs} & {*evaluations}:
        colored = {**{label: [] for label in evaluations}, **logs}
    return {
        "change_charts": change_chart(evaluations, compared),
        "histograms": histograms(evaluations),
        "training_charts": training_charts(colored),
        "optimizer_charts": optimizer_charts(colored),
        "thinned_to": POINTS if any(len(log) > POINTS for log in logs.values()) else None,
        "frontier_charts": frontier_charts(evaluations, colored, rewarded),
    }


def _settings(
    evaluations: Mapping[str, Evaluation], config: Mapping[str, Any], is_comparable: bool
) -> dict[str, dict[str, str]]:
    """Returns the settings of each section, by its heading: names and values as text."""
    parts: dict[str, Mapping[str, Any]] = {key: part for key, part in config.items() if isinstance(part, Mapping)}
    parts["Configuration"] = {key: value for key, value in config.items() if not isinstance(value, Mapping)}
    parts |= {f"Decoding of {label}": evaluation.decoding for label, evaluation in evaluations.items()}
    if is_comparable:
        parts["Data"] = data_signature(next(iter(evaluations.values())).row_ids)  # all have the same rows
    parts["Signatures of the metrics"] = {
        name: " / ".join(dict.fromkeys(e.scores[name].signature for e in evaluations.values() if name in e.scores))
        for name in metrics_of(evaluations)
    }
    return _texts({heading: part for heading, part in parts.items() if part})


def _texts(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    return {
        name: {
            key: value if isinstance(value, str) else json.dumps(value, default=setting_text, ensure_ascii=False)
            for key, value in part.items()
        }
        for name, part in settings.items()
    }
