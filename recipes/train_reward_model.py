"""
Trains a reward model with TRL's RewardTrainer, which `RewardModel` then takes as a reward, and says how far to trust
it: on held-out pairs its accuracy and calibration, and what length alone would have decided.

    accelerate launch recipes/train_reward_model.py --model_name_or_path gpt2 --dataset_name data/pairs \\
        --output_dir runs/reward_model
    python recipes/train_reward_model.py --config recipes/configs/webnlg_reward_model.yaml
    python recipes/train_reward_model.py --help
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from lmrl.arguments import ModelArguments, PreferenceArguments
from lmrl.cli import parse, run
from lmrl.data import demo_model_path, load_pairs
from lmrl.evaluation import evaluate_preferences, interval_as_text
from lmrl.models import load_trainable_classifier, upcast_adapters_to_fp32, write_merged
from lmrl.rewards import RewardModel
from lmrl.trainers import find_checkpoint
from transformers import set_seed
from trl import RewardConfig, RewardTrainer, get_peft_config


@dataclass
class PreferenceConfig(RewardConfig):
    """TRL's configuration, which without a GPU asks for bfloat16 all the same and stops: there it is float32."""

    def __post_init__(self) -> None:
        if not torch.accelerator.is_available():
            self.use_cpu, self.bf16 = True, bool(self.bf16)
        super().__post_init__()


def main() -> None:
    """Train a new head and the model under it so that chosen completions get more than rejected ones."""
    model_args, data_args, config = parse(ModelArguments, PreferenceArguments, PreferenceConfig)
    model_args.lora_task_type = "SEQ_CLS"  # trains and saves the head with the adapter
    set_seed(config.seed)  # the head is random
    train, held_out = load_pairs(**vars(data_args), seed=config.seed)
    name = model_args.model_name_or_path or str(demo_model_path())
    texts = [str(row[column]) for row in train for column in ("prompt", "chosen", "rejected")]
    model, tokenizer = load_trainable_classifier(
        name,
        ["reward"],
        texts,
        revision=model_args.model_revision,
        trust_remote_code=config.trust_remote_code,
        **model_args.loading(),
    )
    trainer = RewardTrainer(
        model, config, train_dataset=train, processing_class=tokenizer, peft_config=get_peft_config(model_args)
    )
    upcast_adapters_to_fp32(trainer.model)
    trainer.train(find_checkpoint(config.resume_from_checkpoint, config.output_dir))
    trainer.save_model()
    if trainer.is_world_process_zero():
        if model_args.merge:
            print(f"The merged model is in {write_merged(config.output_dir, dtype=model_args.dtype)}")
        scores = evaluate_preferences(RewardModel(config.output_dir), held_out)  # what was saved, as it will be used
        Path(config.output_dir, "scores.json").write_text(json.dumps(scores, indent=2))
        print(
            f"Held-out accuracy on {scores['pairs']} pairs of {scores['prompts']} prompts: "
            f"{interval_as_text(scores['accuracy'])}; the longer one: {scores['longer_is_chosen']:.4f}, the "
            f"shorter one: {scores['shorter_is_chosen']:.4f}. Expected calibration error: "
            f"{scores['expected_calibration_error']:.4f}. The model is in {config.output_dir}"
        )


if __name__ == "__main__":
    run(main)
