"""The steps that recipes share: load the policy, make its evaluator, save the results."""

from lmrl.experiment.evaluators import load_frozen_models, make_evaluator, weights_of_recipe
from lmrl.experiment.outputs import prepare_evaluation, prepare_run
from lmrl.experiment.policies import load_policy, load_rows
from lmrl.experiment.reports import save_report
from lmrl.experiment.reruns import run_settings, run_systems
from lmrl.experiment.runs import RunRecord, copy_record, read_run, start_run, trained_rows
from lmrl.experiment.systems import SystemEvaluator, load_eval_sets
from lmrl.experiment.tracking import evaluate

__all__ = [
    "RunRecord",
    "SystemEvaluator",
    "copy_record",
    "evaluate",
    "load_eval_sets",
    "load_frozen_models",
    "load_policy",
    "load_rows",
    "make_evaluator",
    "prepare_evaluation",
    "prepare_run",
    "read_run",
    "run_settings",
    "run_systems",
    "save_report",
    "start_run",
    "trained_rows",
    "weights_of_recipe",
]
