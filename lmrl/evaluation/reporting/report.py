"""The report of an evaluation: scores and completions printed, and written as JSON and HTML."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmrl.display.curves import Log
from lmrl.display.wording import setting_text
from lmrl.rollouts import read_log, read_rollouts
from lmrl.settings import without_secrets

from ..comparison import Comparisons, compare_pairs, label_pairs
from ..evaluate import Evaluation
from ..matching import matched
from ..roles import measured_rewards, primary_metrics
from ..rows import Rows
from .findings import find_warnings
from .page import write_page
from .serialization import write_json
from .tables import pairs_table, samples_table, scores_table, show

# Beside the page: its contents that are in no other file of the run.
FACTS_FILE = "report.json"


def report(
    evaluations: Mapping[str, Evaluation],
    rows: Rows,
    folder: str | Path,
    samples: int = 5,
    *,
    logs: Mapping[str, Log] | None = None,
    config: Mapping[str, Any] | None = None,
    rewarded: Sequence[str] | None = None,
    primary: Sequence[str] | None = None,
    all_pairs: bool = False,
    title: str = "Evaluation",
    rollouts: Sequence[Mapping[str, Any]] | None = None,
    below: Sequence[Any] = (),
) -> Comparisons:
    """
    Prints scores, some completions and warnings of all checkpoints, writes them to a folder, and returns the
    differences from the baseline, as [`compare_all`] does.

    The folder gets `<label>.json` for each checkpoint, `report.html`, a page for the browser ([`write_page`]), and
    `report.json`, from which `lmrl report` writes the page again. Without evaluations the page has only the logs.

    Args:
        evaluations (`dict` of [`Evaluation`]):
            Evaluations by label; the first is the baseline.
        rows (`datasets.Dataset` or list of `dict`):
            The evaluated rows.
        folder (`str` or `Path`):
            Folder of the files.
        samples (`int`, *optional*, defaults to `5`):
            Number of prompts whose completions are printed.
        logs (`dict` of log histories, *optional*):
            Logs of the training runs, by label; by default that of the run that was saved in `folder`, if any.
        config (`dict`, *optional*):
            Settings that the page shows at its end.
        rewarded (list of `str`, *optional*):
            Names of the rewards trained on; by default all that were measured as `reward/<name>`.
        primary (list of `str`, *optional*):
            Names of the metrics to test; the others are exploratory. By default the total of the rewards and up to
            five measures of quality that were not trained on.
        all_pairs (`bool`, *optional*, defaults to `False`):
            Whether to test every pair of checkpoints, and not only each against the first.
        title (`str`, *optional*, defaults to `"Evaluation"`):
            Heading of the page.
        rollouts (list of `dict`, *optional*):
            Lines of a run's `rollouts.jsonl`; by default of the one in `folder`, if there is one.
        below (list of `rich.table.Table`, *optional*, defaults to `()`):
            Tables to print below that of the scores, as [`lmrl.comparison.tables`] makes them.
    """
    folder = Path(folder)
    evaluations = matched(evaluations)
    logs = {"training": read_log(folder)} if logs is None else logs
    rewarded = measured_rewards(evaluations) if rewarded is None else rewarded
    columns = {label: evaluation.scores for label, evaluation in evaluations.items()}
    tested = primary_metrics(evaluations, rewarded) if primary is None else list(primary)
    # One correction of p-values for all differences that are shown.
    pairs = compare_pairs(columns, label_pairs(columns, all_pairs), tested)
    compared = Comparisons({other: pairs[baseline, other] for baseline, other in label_pairs(columns)}, columns)
    files = {label: folder / f"{label}.json" for label in evaluations}
    for label, evaluation in evaluations.items():
        write_json(files[label], evaluation)
    page = folder / "report.html"
    shown: dict[str, Any] = {"config": config, "rewarded": rewarded, "title": title}
    write_page(
        page,
        evaluations,
        rows,
        logs=logs,
        compared=compared,
        pairs=pairs if all_pairs else None,
        rollouts=read_rollouts(folder) if rollouts is None else rollouts,
        **shown,
    )
    facts = {
        **shown,
        "config": without_secrets(config or {}),
        "primary": tested,
        "log": next(iter(logs), None),
        "labels": list(evaluations),
        "rows": [{name: row[name] for name in ("prompt", "references") if name in row} for row in rows],
    }
    text = json.dumps(facts, indent=1, ensure_ascii=False, default=setting_text)
    (folder / FACTS_FILE).write_text(text, encoding="utf-8", errors="backslashreplace")
    if not evaluations:
        print(f"Report: {page}")
        return compared
    if samples and len(rows):
        show(samples_table(evaluations, rows, n=samples))
    show(scores_table(columns, compared))
    if all_pairs:
        show(pairs_table(pairs))
    for table in below:
        show(table)
    findings = find_warnings(evaluations, logs=logs, rewarded=rewarded, compared=compared)
    for warning in findings.warnings:
        print(f"Warning: {warning}")
    print(findings.summary)
    print(f"Scores and completions: {', '.join(map(str, files.values()))}")
    print(f"Report: {page}")
    return compared
