"""`lmrl report`: writes the page of a run again from its folder, or a page on which several runs are overlaid."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmrl.evaluation import FACTS_FILE, Evaluation, read_json, read_log, write_page
from lmrl.evaluation.matching import matched
from lmrl.rollouts import read_rollouts
from lmrl.utils import shorten

# Settings that name the place of a run, which always differ.
_PLACES = ("eval_output_dir", "hub_model_id", "logging_dir", "output_dir", "run_name")


@dataclass(frozen=True)
class RunFolder:
    """The content of a run's folder: its log, its evaluations by label, its settings, and the facts of its page."""

    folder: Path
    log: list[dict[str, Any]]
    evaluations: dict[str, Evaluation]
    config: Mapping[str, Any]
    facts: Mapping[str, Any]


def report_runs(folders: Sequence[str | Path], path: str | Path | None = None) -> Path:
    """
    Writes the page of a run again, also while it trains, or a page on which several runs are overlaid: their curves,
    their last scores, each compared with the first run's, their rollouts, one run at a time, and the settings in which
    they differ.

    Args:
        folders (list of `str` or `Path`):
            Output folders of runs.
        path (`str` or `Path`, *optional*):
            The page; by default the run's own `report.html`, or for several runs `runs.html` in the current folder.

    Returns:
        `Path`: the page.

    Raises:
        `ValueError`: if a folder has no log of a run, or is given twice.
    """
    named = {label: read_run_folder(Path(folder)) for label, folder in labelled_folders(folders).items()}
    if len(named) > 1:
        path = Path(path or "runs.html")
        _write_overlay(path, named)
        return path
    ((label, run),) = named.items()
    path = Path(path or run.folder / "report.html")
    last = run.facts.get("log") or next(reversed(run.evaluations), "training")
    write_page(
        path,
        run.evaluations,
        run.facts.get("rows", []),
        logs={last: run.log},
        config=run.config,
        rewarded=run.facts.get("rewarded"),
        primary=run.facts.get("primary"),
        title=run.facts.get("title", label),
        rollouts=read_rollouts(run.folder),
    )
    return path


def labelled_folders(folders: Sequence[str | Path]) -> dict[str, str | Path]:
    """Returns folders by name, or by path if names are equal; raises a `ValueError` if a folder is given twice."""
    places = [Path(folder).resolve() for folder in folders]
    if len({*places}) < len(places) or not places:
        raise ValueError(f"`folders` must be different folders of runs, got {' '.join(map(str, folders))}.")
    names = [place.name for place in places]
    return dict(zip(names if len({*names}) == len(names) else map(str, folders), folders, strict=True))


def _write_overlay(path: Path, runs: Mapping[str, RunFolder]) -> None:
    finals = {label: next(reversed(run.evaluations.values())) for label, run in runs.items() if run.evaluations}
    compared: dict[str, Any] | None = None
    try:
        matched(finals)
    except ValueError:  # evaluated on different rows
        compared = {}
    rows: list[Any] = runs[next(iter(finals))].facts.get("rows", []) if finals else []
    rewarded = [name for run in runs.values() for name in run.facts.get("rewarded") or []]
    primary = [run.facts.get("primary") for run in runs.values()]
    write_page(
        path,
        finals,
        rows,
        logs={label: run.log for label, run in runs.items()},
        rewarded=list(dict.fromkeys(rewarded)) or None,
        primary=primary[0] if all(names == primary[0] for names in primary) else None,
        title=" and ".join(runs),
        compared=compared,
        rollouts={label: read_rollouts(run.folder) for label, run in runs.items()},
        differing=differing_settings({label: run.config for label, run in runs.items()}),
    )


def differing_settings(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns the settings that differ between the runs, as `[name][run]`."""
    names = dict.fromkeys(name for config in configs.values() for name in config if name not in _PLACES)
    known = [config for config in configs.values() if config]
    differing = {}
    for name in names:
        # A run without a setting counts as one in which it is `None`.
        if len({repr(config.get(name)) for config in known}) > 1:
            differing[name] = {label: config[name] for label, config in configs.items() if name in config}
    return differing


def read_run_folder(folder: Path) -> RunFolder:
    """Returns the content of a run's folder; raises a `ValueError` if it has no log."""
    if not (log := read_log(folder)):
        why = "which has neither log.jsonl nor trainer_state.json" if folder.is_dir() else "which is no folder"
        raise ValueError(
            f"`lmrl report` must have folders of runs, got {str(folder)!r}, {why}. Name the output_dir of a run."
        )
    groups = read_object(folder / "run.json")
    settings = {name: value for part in groups.values() if isinstance(part, dict) for name, value in part.items()}
    scores = Path(settings.get("eval_output_dir") or folder)
    facts = read_object(scores / FACTS_FILE)
    files = {label: scores / f"{label}.json" for label in facts.get("labels", ("before", "after"))}
    evaluations = {label: read_json(file) for label, file in files.items() if file.is_file()}
    return RunFolder(folder, log, evaluations, facts.get("config") or settings, facts)


def read_object(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file, an empty one if there is no such file."""
    if not path.is_file():
        return {}
    content = path.read_bytes()
    try:
        return dict(json.loads(content))
    except (ValueError, TypeError) as error:
        got = shorten(content.decode(errors="replace"))
        raise ValueError(f"`{path}` must be a JSON object, got {got}. Remove the file.") from error
