"""What a supervised run leaves behind besides its model: scores, report and model card."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from lmrl.distributed import on_main
from lmrl.evaluation import Evaluation
from lmrl.evaluation.roles import primary_metrics
from lmrl.experiment.reports import settings_of, with_rows_of_run, write_report
from lmrl.rewards import RewardModel
from lmrl.supervised.learned import evaluate_labels, evaluate_pairs
from lmrl.supervised.scores import classification_scores, evaluate_preferences, interval_as_text
from lmrl.utils import replaced

_OF_TRL = ("num_train_epochs", "max_length", "per_device_train_batch_size")  # settings that a card shows
_STATES = ["encoder_last_hidden_state", "mems", "past_key_values"]  # outputs of some classifiers besides logits


def save_warm_start(trainer: Any, evaluations: Mapping[str, Evaluation], rows: Dataset, *argument_groups: Any) -> None:
    """Writes evaluations (before, after), report and card of an [`~trl.SFTTrainer`]; uploads with `push_to_hub`."""
    evaluations = with_rows_of_run(evaluations, rows, trainer.args.output_dir)
    card = {"algorithm": "SFT", "template": "card_sft.md", "task_type": "text-generation"}
    _save_report(trainer, evaluations, rows, argument_groups, _OF_TRL, ["reference_perplexity"], tags=(), **card)


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
    # With other settings `predict` may order the rows by length, or leave out the last ones.
    with (
        replaced(trainer.args, "train_sampling_strategy", "sequential"),
        replaced(trainer.args, "dataloader_drop_last", False),
    ):
        logits = trainer.predict(encoded, ignore_keys=_STATES).predictions
    on_main(lambda: _save_accuracy(trainer.args.output_dir, logits, rows["label"], train_rows["label"], names))
    shown, evaluations = evaluate_labels(logits, rows, train_rows["label"], names)
    card = {"algorithm": "classification", "template": "card_classifier.md", "task_type": "text-classification"}
    _save_report(trainer, evaluations, shown, argument_groups, ("num_train_epochs", "weight_decay"), tags=(), **card)


def save_reward_model(trainer: Any, pairs: Dataset, *argument_groups: Any) -> None:
    """Does what [`save_classifier`] does for a reward model, which scores the held-out pairs as a reward would."""
    margins = on_main(lambda: _save_preferences(trainer.args.output_dir, pairs))
    shown, evaluations = evaluate_pairs(margins, pairs)
    card = {"algorithm": "reward modeling", "template": "card_reward_model.md", "task_type": "text-classification"}
    _save_report(trainer, evaluations, shown, argument_groups, _OF_TRL, tags=("reward-trainer",), **card)


def _save_accuracy(folder: str, logits: Any, labels: Any, train_labels: Any, names: Sequence[str]) -> None:
    """Prints and writes the scores of a classifier, beside those of the most frequent label of the training rows."""
    frequent = max(range(len(names)), key=list(train_labels).count)  # of several the first, as in the report
    scores = classification_scores(logits.argmax(-1).tolist(), list(labels), frequent)
    Path(folder, "scores.json").write_text(json.dumps(scores, indent=2))
    print(
        f"Held-out accuracy on {scores['rows']} rows: {interval_as_text(scores['accuracy'])}, "
        f"macro F1 {scores['macro_f1']:.4f}; always {names[frequent]!r}: "
        f"{scores['commonest_label_accuracy']:.4f}."
    )


def _save_preferences(folder: str, pairs: Dataset) -> list[float]:
    """
    Prints and writes the scores of a reward model, which is loaded from its folder as a reward; returns the reward of
    each chosen completion minus that of the rejected one.
    """
    scores = evaluate_preferences(RewardModel(folder), pairs)
    margins: list[float] = scores.pop("margins")
    Path(folder, "scores.json").write_text(json.dumps(scores, indent=2))
    print(
        f"Held-out accuracy on {scores['pairs']} pairs of {scores['prompts']} prompts: "
        f"{interval_as_text(scores['accuracy'])}; the longer one: {scores['longer_is_chosen']:.4f}, the "
        f"shorter one: {scores['shorter_is_chosen']:.4f}. Expected calibration error: "
        f"{scores['expected_calibration_error']:.4f}."
    )
    return margins


def _save_report(
    trainer: Any,
    evaluations: Mapping[str, Evaluation],
    rows: Dataset,
    argument_groups: Sequence[Any],
    reported_settings: Sequence[str],
    tested_first: Sequence[str] = (),
    **card: Any,
) -> None:
    """Writes report, card and, if `merge` is set, the merged weights; the last evaluation is the trained model's."""
    settings = settings_of(trainer, *argument_groups)
    if trainer.is_world_process_zero():
        primary = settings.get("primary_metrics")
        if primary is None:
            primary = list(dict.fromkeys([*tested_first, *primary_metrics(evaluations, [])]))
        write_report(
            trainer,
            evaluations,
            rows,
            settings,
            title=card["algorithm"],
            rewarded=[],
            primary=primary,
            citation=None,
            settings={name: getattr(trainer.args, name, None) for name in reported_settings},
            **card,
        )
    if trainer.args.push_to_hub:
        trainer.create_model_card = lambda *_, **__: None  # it is written
        trainer.push_to_hub(commit_message="Scores and model card")
