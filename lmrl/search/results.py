"""The results of a sweep: a table with the command of the best trial, and Optuna's plots."""

import math
import shlex
import warnings

from lmrl.libraries import optuna

from .study import OVER_MAX_KL, Sweep


def summary(sweep: Sweep) -> str:
    """Returns a table of the trials, the best first, the importance of each argument, and the best trial's command."""
    table = sweep.study.trials_dataframe(("number", "value", "user_attrs", "params", "state"))
    table["over"] = table["user_attrs_reason"] == OVER_MAX_KL
    table = table.sort_values(["state", "over", "value"], ascending=[True, True, sweep.direction == "minimize"])
    table.columns = [name.removeprefix("user_attrs_").removeprefix("params_") for name in table.columns]
    is_objective = sweep.args.objective == "kl"
    if "kl" in table and (is_objective or table["kl"].isna().all()):  # supervised training has no KL
        table = table.drop(columns="kl")
    table = table.drop(columns="over").rename(columns={"number": "trial", "value": sweep.args.objective})
    lines = [table.to_string(index=False, na_rep="", float_format="{:.4g}".format)]
    if table.loc[table["state"] == "COMPLETE", sweep.args.objective].nunique() >= 5:  # enough to rank the arguments
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        importances = optuna.importance.get_param_importances(sweep.study, evaluator=evaluator)
        lines.append("Importance: " + ", ".join(f"{name} {100 * share:.0f} %" for name, share in importances.items()))
    if (best := sweep.best()) is None:
        lines.append(f"No trial is complete and within max_kl={sweep.args.max_kl}.")
    else:
        lines.append(f"The best is trial {best.number}: {shlex.join(['python', *sweep.command_of(best)])}")
    return "\n".join(lines)


def plot(sweep: Sweep) -> None:
    """Writes Optuna's slice plots of the objective and of the KL, if any; trials over the bound on the KL are grey."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    targets = {"objective": (sweep.args.objective, None), "kl": ("KL", lambda trial: trial.user_attrs["kl"])}
    if all(math.isnan(trial.user_attrs.get("kl", math.nan)) for trial in sweep.finished()):
        del targets["kl"]
    for name, (label, target) in targets.items():
        # Undoes the style that Optuna sets, and hides its warning that the interface of its plots is experimental.
        with pyplot.style.context("default"), warnings.catch_warnings(action="ignore"):
            optuna.visualization.matplotlib.plot_slice(sweep.study, target=target, target_name=label)
            pyplot.gcf().autofmt_xdate(which="both")  # labels of a short logarithmic axis would overlap
            pyplot.savefig(sweep.folder_of(f"{name}.svg"), bbox_inches="tight")
            pyplot.close()
