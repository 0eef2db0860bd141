"""
Trains a text classifier, for the reward `classifier`, and measures how often it is right on held-out rows.

    python recipes/train_classifier.py --dataset_name data/reviews --output_dir runs/classifier
    python recipes/train_classifier.py --config recipes/configs/sst2_classifier.yaml
    python recipes/train_classifier.py --help
"""

from dataclasses import dataclass

import lmrl.cli.instant_help  # noqa: F401  prints --help before the libraries are imported
from lmrl.arguments import ClassifierArguments, LabelArguments
from lmrl.cli import parse, run
from lmrl.data import load_labelled
from lmrl.experiment import prepare_run, start_run
from lmrl.supervised import RecipeConfig, check_defaults, load_trainable_classifier, save_classifier, smallest_limit
from lmrl.trainers import find_checkpoint
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments, set_seed


@dataclass
class ClassifierConfig(RecipeConfig, TrainingArguments):
    """transformers' configuration, with defaults for a CPU where there is no GPU, and `overwrite`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_defaults(self, "prediction_loss_only", "eval_do_concat_batches", "label_names", "fp16_full_eval")


def main() -> None:
    """Trains on one label per text, and prints the accuracy beside that of the most frequent label."""
    model_args, label_args, config = parse(ClassifierArguments, LabelArguments, ClassifierConfig)
    prepare_run(config, model_args, label_args)
    set_seed(config.seed)  # the head is random
    train_rows, eval_rows, names = load_labelled(**vars(label_args))
    model, tokenizer = load_trainable_classifier(model_args.model_name_or_path, names, train_rows["text"])
    tokenizer.model_max_length = smallest_limit(model, tokenizer.model_max_length, model_args.max_length)
    train_set, eval_set = (
        rows.map(lambda row: tokenizer(row["text"], truncation=True), batched=True, remove_columns="text")
        for rows in (train_rows, eval_rows)
    )
    trainer = Trainer(
        model,
        config,
        train_dataset=train_set,
        eval_dataset=eval_set,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    start_run(trainer, train_rows, eval_rows, model_args, label_args)
    trainer.train(find_checkpoint(config.resume_from_checkpoint, config.output_dir))
    trainer.save_model()
    save_classifier(trainer, eval_set, train_rows, eval_rows, names, model_args, label_args)


if __name__ == "__main__":
    run(main)
