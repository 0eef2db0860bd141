"""The log of a training run, and the curves in it."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

Log: TypeAlias = Sequence[Mapping[str, Any]]
Curve: TypeAlias = list[tuple[float, float]]

# A chart is some 450 pixels wide: more points than these are not seen.
POINTS = 240

_PANELS = {
    "reward": "Reward",
    "kl_per_sequence": "KL to the reference (nats per completion)",
    "entropy": "Entropy (nats per token)",
    "completions/mean_length": "Length (tokens)",
    "completions/clipped_ratio": "Unfinished (share)",
}


def read_log(folder: str | Path) -> list[dict[str, Any]]:
    """
    Returns the log history of the run that wrote a folder; empty where there is none (a hub id, a model alone).

    Args:
        folder (`str` or `Path`):
            An output folder: its `trainer_state.json`, or that of its newest `checkpoint-<step>`.

    Raises:
        `ValueError`: if the file is not what Trainer writes.
    """
    folder = Path(folder)
    steps = [part for part in folder.glob("checkpoint-*") if part.name.removeprefix("checkpoint-").isdecimal()]
    newest = sorted(steps, key=lambda part: int(part.name.removeprefix("checkpoint-")), reverse=True)
    for place in (folder, *newest):
        path = place / "trainer_state.json"
        if path.is_file():
            try:
                return list(json.loads(path.read_text(encoding="utf-8"))["log_history"])
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path} is no trainer state ({error}). Remove the file, or save it again."
                ) from error
    return []


def curve(log: Log, name: str) -> Curve:
    """
    Returns the steps and values at which a number was logged, values as `float`.

    Args:
        log (list of `dict`):
            A log history.
        name (`str`):
            Key of the number.
    """
    found = ((row.get("step", index), row.get(name)) for index, row in enumerate(log, start=1))
    return [(float(step), float(value)) for step, value in found if isinstance(value, int | float)]


def panels(logs: Mapping[str, Log]) -> dict[str, dict[str, Curve]]:
    """
    Returns the curves to draw: for each title the curves by name, thinned to 240 points by means of neighbours.

    Reward in total, each component, KL, entropy, length, share unfinished, then every held-out `eval_` number but
    those of time and memory; where no run has a number, there is no panel; where some have none, their list is empty.

    Args:
        logs (`dict` of log histories):
            By the label of the run.
    """
    names = list(dict.fromkeys(name for log in logs.values() for row in log for name in row))
    titles = {"reward": _PANELS["reward"]}
    components = [name for name in names if name.startswith("rewards/") and name.endswith("/mean")]
    if len(components) > 1:
        titles |= {name: f"Reward: {name.removeprefix('rewards/').removesuffix('/mean')}" for name in components}
    titles |= _PANELS
    if "kl_per_sequence" not in names:
        titles |= {"kl": "KL to the reference (nats per token)"}
    timing = ("runtime", "_per_second", "time")
    titles |= {n: f"Held out: {n.removeprefix('eval_')}" for n in names if _held_out(n) and not n.endswith(timing)}
    found = {}
    for name, title in titles.items():
        found[title] = {label: thinned(curve(log, name)) for label, log in logs.items()}
    return {title: series for title, series in found.items() if any(series.values())}


def thinned(points: Curve) -> Curve:
    """Returns at most 240 points: each the mean of as many neighbours as it takes, at the step of the last."""
    width = math.ceil(len(points) / POINTS)
    if width < 2:
        return points
    groups = [points[i : i + width] for i in range(0, len(points), width)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def _held_out(name: str) -> bool:
    return name.startswith("eval_") and not name.startswith("eval_time/")
