"""
Fine-tunes a causal language model on the references with TRL's SFTTrainer, as a start for reinforcement learning.

    accelerate launch recipes/sft.py --model_name_or_path gpt2 --dataset_name data/train.jsonl \\
        --prompt_template "{mr} ->" --reference_column references --output_dir runs/sft
    python recipes/sft.py --help
"""

from dataclasses import dataclass

from lmrl.arguments import DataArguments, ModelArguments
from lmrl.cli import parse, run
from lmrl.data import load_splits, to_supervised
from lmrl.experiment import load_policy, prepare_run, save_merged, start_run
from lmrl.supervised import RecipeConfig, prepare_step, smallest_limit
from lmrl.trainers import find_checkpoint
from trl import SFTConfig, SFTTrainer


@dataclass
class SupervisedConfig(RecipeConfig, SFTConfig):
    """TRL's configuration, with defaults for a CPU where there is no GPU, and `overwrite`."""


def main() -> None:
    """Trains on one prompt-completion pair per reference, with the loss on the completions."""
    model_args, data_args, config = parse(ModelArguments, DataArguments, SupervisedConfig)
    prepare_run(config, model_args, data_args)
    model, tokenizer = load_policy(model_args, config)
    tokenizer.padding_side = "right"
    config.max_length = smallest_limit(model, config.max_length)
    longest_prompt = None if config.max_length is None else config.max_length - 1
    train_rows, eval_rows = load_splits(tokenizer, longest_prompt, **vars(data_args))
    train_texts = to_supervised(train_rows)
    trainer = SFTTrainer(
        model,
        config,
        train_dataset=train_texts,
        eval_dataset=to_supervised(eval_rows),
        processing_class=tokenizer,
        peft_config=model_args.peft_config(),
    )
    prepare_step(trainer, train_texts)
    start_run(trainer, train_rows, eval_rows, model_args, data_args)
    trainer.train(find_checkpoint(config.resume_from_checkpoint, config.output_dir))
    trainer.save_model()
    loss = trainer.evaluate()["eval_loss"]
    if trainer.is_world_process_zero():
        save_merged(model_args.merge, config.output_dir, model_args.dtype)
        print(f"Held-out loss: {loss:.4f} nats per token. The model is in {config.output_dir}")


if __name__ == "__main__":
    run(main)
