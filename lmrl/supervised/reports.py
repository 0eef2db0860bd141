"""What a supervised run leaves behind besides its model: scores, report and model card."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from lmrl.distributed import on_main
from lmrl.evaluation import Evaluation
from lmrl.evaluation.roles import primary_metrics
from lmrl.experiment.reports import settings_of, with_rows_of_run, write_report
from lmrl.supervised.learned import evaluate_labels, evaluate_pairs
from lmrl.supervised.steps import save_accuracy, save_preferences
from lmrl.utils import replaced


@dataclass(frozen=True)
class _Product:
    """What a recipe trains, as its model card describes it."""

    algorithm: str
    template: str  # of the card
    task_type: str  # in the words of the Hub
    tags: tuple[str, ...]  # further ones of the card
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
    trainer: Any, encoded: Dataset, train_rows: Dataset, rows: Dataset, names: Sequence[str], *argument_groups: Any
) -> None:
    """
    Measures and prints the held-out scores of a classifier, and writes `scores.json`, the evaluations, the report and
    the model card; uploads them with `push_to_hub`. All processes must call it.

    Args:
        trainer (`transformers.Trainer`):
            Trainer after the training, with its model saved.
        encoded (`datasets.Dataset`):
            The held-out rows as the model reads them.
        train_rows, rows (`datasets.Dataset`):
            Training rows and held-out rows, with `text` and `label`.
        names (list of `str`):
            Names of the labels.
        *argument_groups:
            Arguments of the recipe, which the report shows.
    """
    # Else `predict` may order the rows by length, or leave out the last ones.
    with (
        replaced(trainer.args, "train_sampling_strategy", "sequential"),
        replaced(trainer.args, "dataloader_drop_last", False),
    ):
        logits = trainer.predict(encoded).predictions
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
    settings = settings_of(trainer, *argument_groups)
    if product is _WARM_START:
        evaluations = with_rows_of_run(evaluations, rows, trainer.args.output_dir)
    if trainer.is_world_process_zero():
        primary = settings.get("primary_metrics")
        if primary is None and product is _WARM_START:
            primary = list(dict.fromkeys(["reference_perplexity", *primary_metrics(evaluations, [])]))
        write_report(
            trainer,
            evaluations,
            rows,
            settings,
            title=product.algorithm,
            rewarded=[],
            primary=primary,
            algorithm=product.algorithm,
            citation=None,
            settings={name: getattr(trainer.args, name, None) for name in product.reported_settings},
            template=product.template,
            task_type=product.task_type,
            tags=product.tags,
        )
    if trainer.args.push_to_hub:
        trainer.create_model_card = lambda *_, **__: None  # it is written
        trainer.push_to_hub(commit_message="Scores and model card")
