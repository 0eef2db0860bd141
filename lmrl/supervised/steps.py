"""Steps that the supervised recipes share: rows that fit the model, a quick step, a new head."""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lmrl.experiment.policies import model_name, model_source
from lmrl.models import check_lora_targets, context_length, fuse_activations
from lmrl.rewards import RewardModel
from lmrl.settings import follow_lora
from lmrl.supervised.classifiers import load_trainable_classifier
from lmrl.supervised.forward import add_supervised_forward
from lmrl.supervised.scores import classification_scores, evaluate_preferences, interval_as_text
from lmrl.utils import check_token_ids

logger = logging.getLogger(__name__)


def smallest_limit(model: PreTrainedModel, *limits: int | None) -> int | None:
    """Returns the smallest of the context of a model and other limits of tokens; `None` without any."""
    return min((limit for limit in (context_length(model), *limits) if limit is not None), default=None)


def check_tokenized(trainer: Any, rows: Dataset) -> None:
    """
    Warns of rows that TRL cut or left out, because they have more tokens than `max_length`.

    Args:
        trainer ([`~trl.SFTTrainer`] or [`~trl.RewardTrainer`]):
            Trainer with its tokenized rows, which are not packed.
        rows (`datasets.Dataset`):
            Training rows as they were given to it.

    Raises:
        ValueError: If no row is left, or one has a token that the model does not have.
    """
    kept = trainer.train_dataset
    limit = trainer.args.max_length
    texts = [
        ids for name in ("input_ids", "chosen_ids", "rejected_ids") if name in kept.column_names for ids in kept[name]
    ]
    check_token_ids(texts, trainer.model.config.get_text_config().vocab_size)
    # An EOS at the end of a row of just `max_length` tokens shows that nothing was cut.
    cut = sum(len(ids) == limit and ids[-1] != trainer.processing_class.eos_token_id for ids in texts)
    dropped = len(rows) - len(kept)
    found = (
        f"`max_length` is {limit} tokens: of {len(rows)} rows {dropped} are left out and {cut} cut, as they are longer"
    )
    if not len(kept):
        raise ValueError(f"{found}. Raise it, or shorten the texts; the model's context is the limit.")
    if dropped or cut:
        logger.warning("%s. Raise it, or shorten the texts; the model's context is the limit.", found)


def prepare_step(trainer: Any, rows: Dataset) -> None:
    """
    Prepares an [`~trl.SFTTrainer`] for quick steps on a CPU, and warns of rows that it cut or left out.

    Args:
        trainer ([`~trl.SFTTrainer`]):
            Trainer that has not trained yet.
        rows (`datasets.Dataset`):
            Training rows as they were given to it.

    Raises:
        ValueError: As [`check_tokenized`].
    """
    if not trainer.args.packing:
        check_tokenized(trainer, rows)
    fuse_activations(trainer.model)
    add_supervised_forward(trainer.model)


def load_reward_model(model_args: Any, config: Any, pairs: Dataset) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    Returns a model with a new head of one score, and its tokenizer.

    Args:
        model_args ([`~lmrl.arguments.ModelArguments`]), config (`transformers.TrainingArguments`):
            As for [`~lmrl.experiment.load_policy`].
        pairs (`datasets.Dataset`):
            Rows with `prompt`, `chosen` and `rejected`, from which a model from scratch takes its vocabulary.

    Raises:
        ValueError: If there is no such model.
    """
    texts = [str(row[column]) for row in pairs for column in ("prompt", "chosen", "rejected")]
    options = model_source(model_args, config) | model_args.loading(bf16=config.bf16)
    name = model_name(model_args)
    model, tokenizer = load_trainable_classifier(name, ["reward"], texts, with_adapter=model_args.use_peft, **options)
    if tokenizer.eos_token is None:  # an encoder's, such as BERT's: its texts end in a separator
        tokenizer.eos_token = tokenizer.sep_token
    if model_args.use_peft:
        check_lora_targets(model, model_args.lora_target_modules, model_args.lora_target_parameters)
        follow_lora(config)
    return model, tokenizer


def save_preferences(folder: str, pairs: Dataset) -> list[float]:
    """
    Prints the held-out scores of a reward model, and writes them as `scores.json` into its folder; returns the reward
    of each chosen completion minus that of the rejected one.

    Args:
        folder (`str`):
            Folder of the reward model, which is loaded as [`~lmrl.rewards.RewardModel`] loads it.
        pairs (`datasets.Dataset`):
            Held-out rows with `prompt`, `chosen` and `rejected`.
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


def save_accuracy(
    folder: str, predictions: Sequence[int], labels: Sequence[int], train_labels: Sequence[int], names: Sequence[str]
) -> None:
    """
    Prints the held-out scores of a classifier, and writes them as `scores.json` into its folder; the baseline is the
    most frequent label of the training rows.
    """
    frequent = Counter(train_labels).most_common(1)[0][0]
    scores = classification_scores(predictions, list(labels), frequent)
    Path(folder, "scores.json").write_text(json.dumps(scores, indent=2))
    print(
        f"Held-out accuracy on {scores['rows']} rows: {interval_as_text(scores['accuracy'])}, "
        f"macro F1 {scores['macro_f1']:.4f}; always {names[frequent]!r}: "
        f"{scores['commonest_label_accuracy']:.4f}."
    )
