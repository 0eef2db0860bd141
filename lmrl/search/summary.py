"""A sweep as a table, with the command that gives its best trial again."""

from typing import Any

from lmrl.evaluation import as_text

from .feasible import is_feasible
from .study import Sweep
from .trials import as_command


def summary(sweep: Sweep) -> str:
    """
    Returns the trials, the best first, what each argument decides, and the command of the best.

    Args:
        sweep ([`Sweep`]):
            The sweep.
    """
    from rich import box
    from rich.table import Table

    objective, best = sweep.objective, sweep.best()
    table = Table("trial", objective.name, "KL", *sweep.space, "", box=box.SIMPLE_HEAD)
    sign = -1 if objective.direction == "maximize" else 1
    order = ("COMPLETE", "PRUNED", "RUNNING", "FAIL")

    def key(trial: Any) -> tuple[int, bool, float]:
        """Returns the place of a trial."""
        value = trial.value if trial.state.name == "COMPLETE" else 0.0
        return order.index(trial.state.name), not is_feasible(trial), sign * value

    for trial in sorted(sweep.trials(), key=key):
        value = _number(trial.value if trial.state.name == "COMPLETE" else None)
        kl = _number(trial.user_attrs.get("kl"))
        words = "best" if best and trial.number == best.number else _state(trial)
        parameters = [_number(trial.params.get(name)) for name in sweep.space]
        table.add_row(str(trial.number), value, kl, *parameters, words)
    parts = [as_text(table)]
    if weights := sweep.importances():
        parts.append("Importance: " + ", ".join(f"{name} {100 * share:.0f} %" for name, share in weights.items()))
    if best:
        parts.append(f"The best again: {as_command(sweep.command_of(best))}")
    else:
        parts.append(f"No trial keeps max_kl={objective.max_kl}." if objective.max_kl else "No trial is complete.")
    return "\n".join(parts)


def _state(trial: Any) -> Any:
    if trial.state.name == "COMPLETE":
        return trial.user_attrs["reason"] if is_feasible(trial) else "over max_kl"
    reason = trial.user_attrs.get("reason", "")
    return {"PRUNED": "pruned, ", "FAIL": "failed: ", "RUNNING": "running"}[trial.state.name] + reason


def _number(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
