"""What a supervised run leaves behind besides its model: scores, report and model card."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from lmrl.data import demo_model_path
from lmrl.distributed import on_main
from lmrl.evaluation import Evaluation, report, write_card
from lmrl.evaluation.roles import primary_metrics
from lmrl.experiment import save_merged
from lmrl.experiment.lineage import lineage_of
from lmrl.experiment.reports import with_rows_of_run
from lmrl.supervised.learned import evaluate_labels, evaluate_pairs
from lmrl.supervised.steps import save_accuracy, save_preferences


@dataclass(frozen=True)
class _Product:
    """
    What a recipe trains, as its model card describes it.

    Args:
        algorithm (`str`):
            Name of the training.
        template (`str`):
            Template of the model card.
        task_type (`str`):
            Task of the model, in the words of the Hub.
        tags (tuple of `str`):
            Further tags of the card.
        reported_settings (tuple of `str`):
            Settings of the training worth reporting.
    """

    algorithm: str
    template: str
    task_type: str
    tags: tuple[str, ...]
    reported_settings: tuple[str, ...] = ("num_train_epochs", "max_length", "per_device_train_batch_size")


_WARM_START = _Product("SFT", "card_sft.md", "text-generation", ("sft",))
_CLASSIFIER = _Product(
    "classification", "card_classifier.md", "text-classification", (), ("num_train_epochs", "weight_decay")
)
_REWARD_MODEL = _Product("reward modeling", "card_reward_model.md", "text-classification", ("reward-trainer",))


def save_warm_start(trainer: Any, evaluations: Mapping[str, Evaluation], rows: Dataset, *argument_groups: Any) -> None:
    """Saves what [`save_classifier`] does for an [`~trl.SFTTrainer`], from its evaluations before and after."""
    _save_report(trainer, _WARM_START, evaluations, rows, *argument_groups)


def save_classifier(
    trainer: Any, logits: Any, train_rows: Dataset, rows: Dataset, names: Sequence[str], *argument_groups: Any
) -> None:
    """
    Prints the held-out scores of a classifier, and writes `scores.json`, the evaluations, the report and the model
    card; uploads them with `push_to_hub`. All processes must call it.

    Args:
        trainer (`transformers.Trainer`):
            Trainer after the training, with its model saved.
        logits (array of shape `(rows, labels)`):
            Its outputs for the held-out rows.
        train_rows, rows (`datasets.Dataset`):
            Training rows and held-out rows, with `text` and `label`.
        names (list of `str`):
            Names of the labels.
        *argument_groups:
            Arguments of the recipe, which the report shows.
    """
    if trainer.is_world_process_zero():
        save_accuracy(trainer.args.output_dir, logits.argmax(-1).tolist(), rows["label"], train_rows["label"], names)
    shown, evaluations = evaluate_labels(logits, rows, train_rows["label"], names)
    _save_report(trainer, _CLASSIFIER, evaluations, shown, *argument_groups)


def save_reward_model(trainer: Any, pairs: Dataset, *argument_groups: Any) -> None:
    """Saves what [`save_classifier`] does, for a reward model and held-out pairs, which it scores as a reward."""
    margins = on_main(lambda: save_preferences(trainer.args.output_dir, pairs))
    shown, evaluations = evaluate_pairs(margins, pairs)
    _save_report(trainer, _REWARD_MODEL, evaluations, shown, *argument_groups)


def _save_report(
    trainer: Any, product: _Product, evaluations: Mapping[str, Evaluation], rows: Dataset, *argument_groups: Any
) -> None:
    """Writes report, card and, if `merge` is set, the merged weights; the last evaluation is the trained model's."""
    settings = {name: value for group in argument_groups for name, value in vars(group).items()}
    settings |= trainer.args.to_dict()
    folder = trainer.args.output_dir
    if product is _WARM_START:
        evaluations = with_rows_of_run(evaluations, rows, folder)
    if trainer.is_world_process_zero():
        save_merged(settings.get("merge", False), folder, settings.get("dtype"))
        run: dict[str, Any] = {
            "logs": {list(evaluations)[-1]: trainer.state.log_history},
            "rewarded": [],
            "config": settings,
        }
        primary = settings.get("primary_metrics")
        if primary is None and product is _WARM_START:
            primary = list(dict.fromkeys(["reference_perplexity", *primary_metrics(evaluations, [])]))
        start = Path(str(settings["model_name_or_path"] or demo_model_path())).name
        compared = report(
            evaluations,
            rows,
            settings.get("eval_output_dir") or folder,
            settings.get("eval_num_completions_to_print", 5),
            primary=primary,
            title=f"{start}, {product.algorithm}",
            **run,
        )
        write_card(
            folder,
            evaluations,
            rows,
            algorithm=product.algorithm,
            citation=None,
            settings={name: getattr(trainer.args, name, None) for name in product.reported_settings},
            compared=compared,
            template=product.template,
            task_type=product.task_type,
            tags=product.tags,
            **vars(lineage_of(folder, settings)),
            **run,
        )
        print(f"The model is in {folder}")
    if trainer.args.push_to_hub:
        trainer.create_model_card = lambda *_, **__: None  # it is written
        trainer.push_to_hub(commit_message="Scores and model card")
