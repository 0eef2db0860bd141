"""
Trains a reward model with TRL's RewardTrainer, for the reward `reward_model`, and measures on held-out pairs its
accuracy, its calibration, and what the length alone would have decided.

    accelerate launch recipes/train_reward_model.py --model_name_or_path gpt2 --dataset_name data/pairs \\
        --output_dir runs/reward_model
    python recipes/train_reward_model.py --config recipes/configs/webnlg_reward_model.yaml
    python recipes/train_reward_model.py --help
"""

from dataclasses import dataclass

import lmrl.cli.instant_help  # noqa: F401  prints --help before the libraries are imported
from lmrl.arguments import ModelArguments, PreferenceArguments
from lmrl.cli import parse, run
from lmrl.data import load_pairs
from lmrl.experiment import prepare_run, start_run
from lmrl.models import upcast_adapters_to_fp32
from lmrl.supervised import RecipeConfig, check_tokenized, load_reward_model, save_reward_model, smallest_limit
from lmrl.trainers import find_checkpoint
from transformers import set_seed
from trl import RewardConfig, RewardTrainer


@dataclass
class PreferenceConfig(RecipeConfig, RewardConfig):
    """TRL's configuration, with defaults for a CPU where there is no GPU, and `overwrite`."""


def main() -> None:
    """Trains a new head, and the model under it, so that chosen completions score higher than rejected ones."""
    model_args, data_args, config = parse(ModelArguments, PreferenceArguments, PreferenceConfig)
    prepare_run(config, model_args, data_args)
    model_args.lora_task_type = "SEQ_CLS"  # trains and saves the head with the adapter
    set_seed(config.seed)  # the head is random
    train_pairs, eval_pairs = load_pairs(**vars(data_args))
    model, tokenizer = load_reward_model(model_args, config, train_pairs)
    config.max_length = smallest_limit(model, config.max_length)

    trainer = RewardTrainer(
        model,
        config,
        train_dataset=train_pairs,
        eval_dataset=None if config.eval_strategy == "no" else eval_pairs,
        processing_class=tokenizer,
        peft_config=model_args.peft_config(),
    )
    check_tokenized(trainer, train_pairs)
    upcast_adapters_to_fp32(trainer.model)
    start_run(trainer, train_pairs, eval_pairs, model_args, data_args)
    trainer.train(find_checkpoint(config.resume_from_checkpoint, config.output_dir))
    trainer.save_model()
    save_reward_model(trainer, eval_pairs, model_args, data_args)


if __name__ == "__main__":
    run(main)
