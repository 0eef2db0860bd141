"""The results of a run: scores, report, model card, merged weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from lmrl.comparison import printed_tables, with_win_rates
from lmrl.data import demo_model_path
from lmrl.evaluation import Evaluation, report, write_card
from lmrl.evaluation.roles import metrics_of
from lmrl.experiment.lineage import lineage_of
from lmrl.experiment.named import names_of_scores
from lmrl.experiment.runs import find_run, read_run, with_trained_rows
from lmrl.models import write_merged
from lmrl.rollouts import read_rollouts


def save_report(trainer: Any, evaluations: Mapping[str, Evaluation], rows: Dataset, *argument_groups: Any) -> None:
    """
    Prints the evaluations of a run, and writes its scores, report and model card; uploads them with `push_to_hub`.

    Of the `evaluations` of the held-out `rows`, by label, the first is from before training, the last from after it.
    The trainer has saved its model; if `merge` is set, an adapter is also saved merged into its base. The report shows
    all `argument_groups`, those of the recipe. All processes must call it.
    """
    evaluations = with_rows_of_run(evaluations, rows, trainer.args.output_dir)
    settings = settings_of(trainer, *argument_groups)
    if trainer.is_world_process_zero():
        trainer.model_card = write_report(
            trainer,
            evaluations,
            rows,
            settings,
            title=" and ".join(evaluations),
            rewarded=trainer.reward_func_names,
            primary=settings["primary_metrics"],
            algorithm=trainer.name,
            citation=trainer.citation,
            settings={name: getattr(trainer.args, name) for name in trainer.reported_settings},
        )
    if trainer.args.push_to_hub:
        trainer.push_to_hub(commit_message="Scores and model card")


def settings_of(trainer: Any, *argument_groups: Any) -> dict[str, Any]:
    """Returns all settings of a run: the arguments of its recipe, and the configuration of its trainer."""
    return {name: value for group in argument_groups for name, value in vars(group).items()} | trainer.args.to_dict()


def write_report(
    trainer: Any,
    evaluations: Mapping[str, Evaluation],
    rows: Dataset,
    config: Mapping[str, Any],
    *,
    title: str,
    rewarded: Sequence[str],
    primary: Sequence[str] | None,
    **about: Any,
) -> str:
    """
    Prints and writes the report and the model card of a trained model, and its merged weights if `merge` is set;
    returns the card. `config` has all settings; `about` are the arguments of [`write_card`] alone.
    """
    folder = trainer.args.output_dir
    if config.get("merge"):
        print(f"The merged model is in {write_merged(folder, dtype=config.get('dtype'))}")
    run: dict[str, Any] = {
        "logs": {list(evaluations)[-1]: trainer.state.log_history},
        "rewarded": rewarded,
        "config": config,
    }
    start = Path(str(config["model_name_or_path"] or demo_model_path())).name
    names = names_of_scores(config.get("win_rate"), metrics_of(evaluations))
    evaluations = with_win_rates(evaluations, names, tolerance=config.get("eval_tie_tolerance", 0.0))
    compared = None
    try:
        compared = report(
            evaluations,
            rows,
            config.get("eval_output_dir") or folder,
            config.get("eval_num_completions_to_print", 5),
            primary=primary,
            title=f"{start}, {title}",
            rollouts=read_rollouts(folder),
            below=printed_tables(evaluations),
            **run,
        )
    finally:  # the card is written even if printing fails, as into a closed pipe
        facts = vars(lineage_of(folder, config))
        card = write_card(folder, evaluations, rows, compared=compared, **about, **facts, **run)
    print(f"The model is in {folder}")
    return card


def with_rows_of_run(evaluations: Mapping[str, Evaluation], rows: Dataset, folder: str) -> dict[str, Evaluation]:
    """Returns the evaluations with the rows trained on: the first, by the start model's runs; the others, by all."""
    if find_run(folder) is None:
        return dict(evaluations)
    run = read_run(folder)
    first = next(iter(evaluations)) if len(evaluations) > 1 else None
    return {
        label: with_trained_rows(evaluation, rows, run.trained_on_before if label == first else run.trained_on)
        for label, evaluation in evaluations.items()
    }
