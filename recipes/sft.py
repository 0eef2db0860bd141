"""
Warms a causal language model up on the references, with TRL's SFTTrainer, so that there is something to reinforce.

    accelerate launch recipes/sft.py --model_name_or_path gpt2 --dataset_name data/train.jsonl \\
        --prompt_template "{mr} ->" --reference_column references --output_dir runs/sft
    python recipes/sft.py --help
"""

from dataclasses import dataclass

import torch
from lmrl.arguments import DataArguments, ModelArguments
from lmrl.cli import parse, run
from lmrl.data import demo_model_path, load_splits, to_supervised
from lmrl.models import load_model, load_tokenizer, write_merged
from lmrl.trainers import find_checkpoint
from trl import SFTConfig, SFTTrainer, get_peft_config


@dataclass
class WarmupConfig(SFTConfig):
    """TRL's configuration, which without a GPU asks for bfloat16 all the same and stops: there it is float32."""

    def __post_init__(self) -> None:
        if not torch.accelerator.is_available():
            self.use_cpu, self.bf16 = True, bool(self.bf16)
        super().__post_init__()


def main() -> None:
    """Train on one prompt-completion pair per reference; the loss is on the completions."""
    model_args, data_args, config = parse(ModelArguments, DataArguments, WarmupConfig)
    name = model_args.model_name_or_path or demo_model_path()
    loading = {"revision": model_args.model_revision, "trust_remote_code": config.trust_remote_code}
    tokenizer = load_tokenizer(name, **loading)
    tokenizer.padding_side = "right"
    loading |= model_args.loading()
    model = load_model(name, trainable=True, **loading)
    train, held_out = load_splits(tokenizer, None, seed=config.seed, **vars(data_args))
    trainer = SFTTrainer(
        model,
        config,
        train_dataset=to_supervised(train),
        eval_dataset=to_supervised(held_out),
        processing_class=tokenizer,
        peft_config=get_peft_config(model_args),
    )
    trainer.train(find_checkpoint(config.resume_from_checkpoint, config.output_dir))
    trainer.save_model()
    loss = trainer.evaluate()["eval_loss"]
    if trainer.is_world_process_zero():
        if model_args.merge:
            print(f"The merged model is in {write_merged(config.output_dir, dtype=model_args.dtype)}")
        print(f"Held-out loss: {loss:.4f} nats per token. The model is in {config.output_dir}")


if __name__ == "__main__":
    run(main)
