"""
Trains a text classifier, which `Classifier` then takes as a reward, and says how often it is right on held-out rows.

    python recipes/train_classifier.py --dataset_name data/reviews --class_names negative positive \\
        --output_dir runs/classifier
    python recipes/train_classifier.py --config recipes/configs/sst2_classifier.yaml
    python recipes/train_classifier.py --help
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch
from lmrl.arguments import LabelArguments
from lmrl.cli import parse, run
from lmrl.data import load_labelled
from lmrl.evaluation import classification_scores, interval_as_text
from lmrl.models import load_trainable_classifier
from lmrl.trainers import find_checkpoint
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments, set_seed


@dataclass
class ClassifierConfig(TrainingArguments):
    """The configuration of transformers' Trainer, on a CPU where there is no GPU."""

    model_name_or_path: str = field(
        default="scratch",
        metadata={"help": "Model that gets a head: folder, hub id, or `scratch`, a small encoder of random weights."},
    )
    max_length: int = field(default=128, metadata={"help": "Tokens that a text may have; longer ones are cut."})

    def __post_init__(self) -> None:
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        super().__post_init__()
        for name, wanted in (("prediction_loss_only", False), ("eval_do_concat_batches", True), ("label_names", None)):
            if getattr(self, name) != wanted:
                raise ValueError(f"{name} is {getattr(self, name)}, but the accuracy needs {wanted}: leave it out")


def main() -> None:
    """Train on one label per text; print the held-out accuracy beside that of always giving the commonest label."""
    label_args, config = parse(LabelArguments, ClassifierConfig)
    set_seed(config.seed)  # the head is random
    train, held_out, names = load_labelled(**vars(label_args), seed=config.seed)
    model, tokenizer = load_trainable_classifier(config.model_name_or_path, names, train["text"])
    tokenizer.model_max_length = min(tokenizer.model_max_length, config.max_length)
    train, held_out = (
        rows.map(lambda row: tokenizer(row["text"], truncation=True), batched=True, remove_columns="text")
        for rows in (train, held_out)
    )
    trainer = Trainer(
        model,
        config,
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    trainer.train(find_checkpoint(config.resume_from_checkpoint, config.output_dir))
    trainer.save_model()
    predicted = trainer.predict(held_out).predictions.argmax(-1).tolist()
    if trainer.is_world_process_zero():
        commonest = Counter(train["label"]).most_common(1)[0][0]
        scores = classification_scores(predicted, list(held_out["label"]), commonest)
        Path(config.output_dir, "scores.json").write_text(json.dumps(scores, indent=2))
        print(
            f"Held-out accuracy on {scores['rows']} rows: {interval_as_text(scores['accuracy'])}, "
            f"macro F1 {scores['macro_f1']:.4f}; always "
            f"{names[commonest]!r}: {scores['commonest_label_accuracy']:.4f}. The model is in {config.output_dir}"
        )


if __name__ == "__main__":
    run(main)
