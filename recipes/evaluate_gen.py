"""
Evaluates checkpoints, and texts of other systems, on held-out rows, and compares all with the first.

    python recipes/evaluate_gen.py                                                # the embedded demo model
    python recipes/evaluate_gen.py --run runs/ppo                # on its held-out rows, with its metrics and decoding
    python recipes/evaluate_gen.py --checkpoints sft=runs/sft ppo=runs/ppo --dataset_name data/dev.jsonl
    torchrun --nproc_per_node 2 recipes/evaluate_gen.py --checkpoints runs/sft runs/ppo --outputs human=texts.txt
    python recipes/evaluate_gen.py --help
"""

from datetime import timedelta

import lmrl.cli.instant_help  # noqa: F401  prints --help before the libraries are imported
import torch
from accelerate import PartialState
from lmrl.arguments import CheckpointArguments, ComparisonArguments, HeldOutArguments, ScoringArguments
from lmrl.cli import parse, run
from lmrl.evaluation import Decoding, read_log
from lmrl.experiment import SystemEvaluator, load_eval_sets, prepare_evaluation, read_run, run_settings, run_systems

ARGUMENTS = (CheckpointArguments, HeldOutArguments, ScoringArguments, ComparisonArguments)


def main() -> None:
    """Evaluates everything on each data set, and writes a report for each."""
    model_args, data_args, eval_args, compare_args = parse(*ARGUMENTS, defaults=run_settings)
    record = read_run(compare_args.run) if compare_args.run else None
    # The other processes wait while the main one computes the metrics.
    process = PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=1))
    checkpoints, outputs = compare_args.systems(model_args, eval_args, run_systems(record))
    logs = {label: read_log(path) for label, path in checkpoints.items()}
    eval_sets = load_eval_sets(data_args, compare_args.datasets, record)
    folders = prepare_evaluation(eval_args, compare_args, list(eval_sets), [*checkpoints, *outputs])
    evaluator = SystemEvaluator(
        checkpoints,
        outputs,
        Decoding(**eval_args.decoding(64), **compare_args.sampling(eval_args.eval_do_sample)),
        metrics=eval_args.eval_metrics or [],
        run=record,
        primary_metrics=eval_args.primary_metrics,
        win_rate=eval_args.win_rate,
        mbr_metric=compare_args.eval_mbr_metric,
        perplexity_model=eval_args.eval_perplexity_model,
        device=process.device,
        **model_args.loading(),
    )
    settings = vars(data_args) | vars(eval_args) | vars(compare_args)
    for name, rows in eval_sets.items():
        rows = evaluator.fit(rows, data_args)
        evaluations = evaluator(rows, folders[name])
        if process.is_main_process:
            about = {"logs": logs, "config": settings, "title": f"Evaluation on {name}"}
            evaluator.report(evaluations, rows, folders[name], eval_args, compare_args, **about)
    if process.is_main_process:
        evaluator.clean_up(*folders.values())


if __name__ == "__main__":
    run(main)
