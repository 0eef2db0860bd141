"""The summary of several seeds, and the comparison of configurations: printed, as JSON, and as a page."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from lmrl.cli.report import differing_settings, labelled_folders, read_object
from lmrl.comparison import printed_table
from lmrl.display.charts import lines
from lmrl.display.curves import panels
from lmrl.display.wording import counted, number, p_value, with_interval
from lmrl.evaluation import Evaluation, Score, holm, show, write_page
from lmrl.evaluation.matching import matched
from lmrl.rollouts import finite, replace_file

from .folders import PAGE_FILE, SUMMARY_FILE, SeedFolder, is_seed_folder, read_seeds
from .statistics import MIN_SEEDS, SeedDifference, Spread, compare_seeds, spread

Lines = list[list[str]]

_NO_CLAIM = f"No claim over seeds is possible with fewer than {MIN_SEEDS} of each configuration: run more."


def report_seeds(folders: Sequence[str | Path], path: str | Path | None = None) -> Path:
    """
    Prints the summary of a folder of seeds, or the comparison of several with the first, and writes its page.

    Args:
        folders (list of `str` or `Path`):
            Folders that `lmrl run --seeds` wrote.
        path (`str` or `Path`, *optional*):
            The page; by default `seeds.html` in the folder, or for several folders `runs.html` in the current one.

    Returns:
        `Path`: the page.

    Raises:
        ValueError: If one is no folder of seeds or is given twice, or their rows or all of their metrics differ.
    """
    for folder in folders:
        if not is_seed_folder(folder):
            raise ValueError(
                f"`lmrl report` must have folders of seeds alone or of single runs alone, got {str(folder)!r}, which "
                "is no folder of seeds, beside one. Name seed-<n> inside of that, or run several seeds of this one."
            )
    found = {label: read_seeds(folder) for label, folder in labelled_folders(folders).items()}
    if len(found) == 1:
        ((label, seeds),) = found.items()
        tables = {f"{label} over seeds": summary_lines(seeds)}
        tables[f"{seeds.start.capitalize()}, after and change"] = _stage_lines(seeds)
        tables["Each seed after training"] = _seed_lines(seeds)
        path = Path(path or seeds.folder / PAGE_FILE)
    else:
        tables = {"Over seeds and rows": comparison_lines(found, compare_configurations(found))}
        path = Path(path or "runs.html")
    evaluation = Evaluation([], {}, {}, tables=tables, numbers={heading: [] for heading in tables})
    write_page(
        path,
        {"": evaluation},
        [],
        logs={label: seeds.mean_log() for label, seeds in found.items()},
        curves=_training_charts(found),
        compared={},
        title=" and ".join(found),
        config=next(iter(found.values())).config if len(found) == 1 else None,
        differing=differing_settings({label: seeds.config for label, seeds in found.items()}),
    )
    show(printed_table(*next(iter(tables.items()))))
    return path


def write_summary(seeds: SeedFolder) -> Path:
    """Adds the scores of the seeds and their spread to `seeds.json`, and returns the path of the file."""
    metrics = {}
    for name, score in seeds.metrics.items():
        values = {stage: {"values": found, **asdict(spread(found))} for stage, found in seeds.values(name).items()}
        about = {"signature": score.signature, "higher_is_better": score.higher_is_better}
        metrics[name] = {**about, "primary": name in seeds.primary, **values}
    path = seeds.folder / SUMMARY_FILE
    content = {**read_object(path), "finished": list(seeds.runs), "metrics": metrics}
    replace_file(path, json.dumps(finite(content), indent=1, ensure_ascii=False).encode())
    return path


def summary_lines(seeds: SeedFolder) -> Lines:
    """Returns the table of a folder of seeds: a line per metric, the primary ones first, and notes."""
    table = [["metric", seeds.start, "after [95% CI]", "sd", "least", "greatest", "change [95% CI]"]]
    for name in seeds.metrics:
        spreads = {stage: spread(values) for stage, values in seeds.values(name).items()}
        before = spreads.get(seeds.start)
        after = spreads["after"]
        change = spreads.get("change")
        start = number(before.mean) if before else ""
        extremes = [number(value) for value in (after.deviation, after.least, after.greatest)]
        table.append([name, start, _mean(after), *extremes, _mean(change, "+") if change else ""])
    count = len(seeds.runs)
    notes = [
        f"{counted(count, 'seed')}: {', '.join(map(str, seeds.runs))}. Intervals are Student's t over seeds, on these "
        "rows; sd is the standard deviation (n - 1). Nothing is tested here."
    ]
    wanted = read_object(seeds.folder / SUMMARY_FILE).get("seeds", [])
    if missing := [str(seed) for seed in wanted if seed not in seeds.runs]:
        notes.append(f"Without seed {', '.join(missing)}, which has no scores.")
    if count < MIN_SEEDS:
        notes.append(_NO_CLAIM)
    return [*table, *([note] for note in notes)]


def compare_configurations(configurations: Mapping[str, SeedFolder]) -> dict[str, dict[str, SeedDifference]]:
    """
    Returns the differences of the other configurations from the first, as `[label][metric]`.

    The p-values of the first configuration's primary metrics are corrected together by [`~lmrl.evaluation.holm`], and
    so are those of Welch's test; the other metrics are exploratory.

    Raises:
        ValueError: If the rows differ, no metric is common, or a primary metric was computed in two ways.
    """
    runs = {f"{label}/seed-{seed}": one for label, found in configurations.items() for seed, one in found.last.items()}
    same_rows = iter(matched(runs).values())
    scores = {
        label: [evaluation.scores for evaluation in itertools.islice(same_rows, len(found.runs))]
        for label, found in configurations.items()
    }
    baseline, *others = configurations
    primary = configurations[baseline].primary
    compared = {}
    for label in others:
        names = [name for name in configurations[baseline].metrics if name in scores[label][0]]
        names = [name for name in names if _is_same(scores[baseline][0][name], scores[label][0][name], primary)]
        if not names:
            raise ValueError(
                f"{baseline!r} and {label!r} must have a metric in common, got {', '.join(scores[baseline][0])} and "
                f"{', '.join(scores[label][0])}. Evaluate both alike."
            )
        pairs = {name: [[run[name] for run in scores[one]] for one in (baseline, label)] for name in names}
        compared[label] = {name: compare_seeds(*pair) for name, pair in pairs.items()}
    return _corrected(compared, primary)


def _is_same(first: Score, second: Score, primary: Sequence[str]) -> bool:
    """Returns whether two scores of one name were computed alike; if not, a primary metric raises an error."""
    is_same = (first.signature, first.pooling) == (second.signature, second.pooling)
    if not is_same and first.name in primary:
        raise ValueError(
            f"`{first.name}` must be computed alike for all configurations, got {first.signature!r} and "
            f"{second.signature!r}. Evaluate both alike, or choose other metrics by `primary_metrics`."
        )
    return is_same


def _corrected(
    compared: Mapping[str, Mapping[str, SeedDifference]], primary: Sequence[str]
) -> dict[str, dict[str, SeedDifference]]:
    """Returns the differences with corrected p-values for the primary metrics, and NaN for the others."""
    tested = [(label, name) for label, found in compared.items() for name in found if name in primary]
    p_values = dict(zip(tested, holm([compared[label][name].p_value for label, name in tested]), strict=True))
    welch = dict(zip(tested, holm([compared[label][name].welch_p for label, name in tested]), strict=True))
    corrected: dict[str, dict[str, SeedDifference]] = {}
    for label, found in compared.items():
        corrected[label] = {}
        for name, one in found.items():
            p = p_values.get((label, name), math.nan)
            of_welch = welch.get((label, name), math.nan)
            corrected[label][name] = replace(one, primary=name in primary, p_corrected=p, welch_corrected=of_welch)
    return corrected


def comparison_lines(
    configurations: Mapping[str, SeedFolder], compared: Mapping[str, Mapping[str, SeedDifference]]
) -> Lines:
    """Returns the table of configurations compared with the first: a line per metric and configuration, and notes."""
    baseline = next(iter(configurations))
    counts = {label: len(found.runs) for label, found in configurations.items()}
    table = [["metric", baseline, "other", "its score", "difference [95% CI]", "p (Holm)", "Welch (Holm)"]]
    names = dict.fromkeys(name for found in configurations.values() for name in found.metrics)
    for name in names:
        for label, found in compared.items():
            if name in found:
                one = found[name]
                star = "*" if one.significant else ""
                tested = [p_value(one.p_corrected) + star, p_value(one.welch_corrected)]
                spreads = [f"{number(of.mean)}, {number(of.deviation)}" for of in (one.first, one.second) if of]
                table.append([name, spreads[0], label, spreads[1], with_interval(*one.interval), *tested])
    every = [one for found in compared.values() for one in found.values()]
    tests = sum(not math.isnan(one.p_corrected) for one in every)
    welch = sum(not math.isnan(one.welch_corrected) for one in every)
    alike = "Both are corrected" if welch == tests else f"It is corrected for {welch}, p"
    seeds = ", ".join(f"{label} {count}" for label, count in counts.items())
    notes = [
        f"Mean and standard deviation over the seeds ({seeds}). Interval and p are over seeds and rows together; "
        f"Welch's p is of the seeds, for these rows alone. {alike} for {counted(tests, 'comparison')} (Holm); p with "
        "a star is below 0.05. Metrics without are exploratory."
    ]
    if min(counts.values()) < MIN_SEEDS:
        notes.append(_NO_CLAIM)
    left_out = [name for name in names if any(name not in found for found in compared.values())]
    if left_out:
        notes.append(f"Not compared, as not all have it, or computed in another way: {', '.join(left_out)}.")
    return [*table, *([note] for note in notes)]


def _training_charts(configurations: Mapping[str, SeedFolder]) -> list[str]:
    """Returns the training curves: means over the seeds, with the curve of each seed as a thin line behind."""
    of_runs = {
        label: [panels({label: run.log}) for run in found.runs.values()] for label, found in configurations.items()
    }
    charts = []
    for title, curves in panels({label: found.mean_log() for label, found in configurations.items()}).items():
        thin = {label: [run[title][label] for run in runs if title in run] for label, runs in of_runs.items()}
        charts.append(lines(curves, title=title, smooth=True, thin=thin))
    return charts


def _stage_lines(seeds: SeedFolder) -> Lines:
    """Returns the table of the spread of each metric before training, after it, and of its change."""
    table = [["metric", "of", "mean [95% CI]", "sd", "least", "greatest"]]
    for name in seeds.metrics:
        for stage, values in seeds.values(name).items():
            found = spread(values)
            table.append([name, stage, _mean(found), *map(number, (found.deviation, found.least, found.greatest))])
    return table


def _seed_lines(seeds: SeedFolder) -> Lines:
    """Returns the table of the scores of each seed."""
    heading = ["metric", *(f"seed {seed}" for seed in seeds.runs)]
    return [heading, *([name, *map(number, seeds.values(name)["after"])] for name in seeds.metrics)]


def _mean(found: Spread, sign: str = "") -> str:
    return with_interval(found.mean, found.low, found.high, sign=sign)
