"""
Fine-tunes a causal language model on the references with TRL's SFTTrainer, as a start for reinforcement learning.

    accelerate launch recipes/sft.py --model_name_or_path gpt2 --dataset_name data/train.jsonl \\
        --prompt_template "{mr} ->" --reference_column references --output_dir runs/sft
    python recipes/sft.py --help
"""

from dataclasses import dataclass

import lmrl.cli.instant_help  # noqa: F401  prints --help before the libraries are imported
from lmrl.arguments import DataArguments, ModelArguments, WarmStartEvaluationArguments
from lmrl.cli import parse, run
from lmrl.data import load_splits, to_supervised
from lmrl.experiment import load_policy, prepare_run, start_run
from lmrl.supervised import (
    WarmStartConfig,
    evaluate_supervised,
    first_references,
    make_supervised_evaluator,
    prepare_step,
    save_warm_start,
    smallest_limit,
)
from lmrl.trainers import find_checkpoint
from trl import SFTConfig, SFTTrainer


@dataclass
class SupervisedConfig(WarmStartConfig, SFTConfig):
    """TRL's configuration, with `chat_template_kwargs`, `overwrite`, and defaults for a CPU where there is no GPU."""


def main() -> None:
    """Trains on one prompt-completion pair per reference, with the loss on the completions."""
    arguments = parse(ModelArguments, DataArguments, WarmStartEvaluationArguments, SupervisedConfig)
    model_args, data_args, eval_args, config = arguments
    prepare_run(config, model_args, data_args, eval_args)
    model, tokenizer = load_policy(model_args, config)
    config.max_length = smallest_limit(model, config.max_length)
    variables = config.chat_template_kwargs
    longest_prompt = None if config.max_length is None else config.max_length - 1
    train_rows, eval_rows = load_splits(tokenizer, longest_prompt, variables, **vars(data_args))
    train_texts = to_supervised(train_rows, chat_template_kwargs=variables)
    evaluator = make_supervised_evaluator(model, tokenizer, eval_rows, eval_args, config)
    texts = {"train_dataset": train_texts, "eval_dataset": first_references(evaluator.rows, variables)}
    trainer = SFTTrainer(model, config, **texts, processing_class=tokenizer, peft_config=model_args.peft_config())
    prepare_step(trainer, train_texts)
    start_run(trainer, train_rows, eval_rows, model_args, data_args, eval_args)
    evaluations = {"before": evaluate_supervised(trainer, evaluator)}
    trainer.train(find_checkpoint(config.resume_from_checkpoint, config.output_dir))
    trainer.save_model()
    evaluations["after"] = evaluate_supervised(trainer, evaluator)
    save_warm_start(trainer, evaluations, evaluator.rows, model_args, data_args, eval_args)


if __name__ == "__main__":
    run(main)
