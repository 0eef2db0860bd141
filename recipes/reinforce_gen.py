"""
Fine-tunes a causal language model against sequence-level rewards with REINFORCE, and says whether it got better.

    accelerate launch recipes/reinforce_gen.py                                          # the embedded demo, offline
    accelerate launch recipes/reinforce_gen.py --config recipes/configs/gpt2_lora.yaml  # flags override a YAML file
    python recipes/reinforce_gen.py --help
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from trl import get_peft_config

from lmrl.arguments import DataArguments, EvaluationArguments, ModelArguments, RewardArguments
from lmrl.cli import parse, run
from lmrl.data import demo_model_path, load_splits
from lmrl.evaluation import evaluate_model, report
from lmrl.models import context_length, load_model, load_tokenizer
from lmrl.rewards import make_rewards, reward_name
from lmrl.trainers import ReinforceConfig, ReinforceTrainer

DEMO = Path(__file__).parent / "configs" / "demo_reinforce.yaml"


def main() -> None:
    """Train, and print the held-out scores before and after."""
    model_args, data_args, reward_args, eval_args, config = parse(
        ModelArguments, DataArguments, RewardArguments, EvaluationArguments, ReinforceConfig, demo=DEMO
    )
    name = str(model_args.model_name_or_path or demo_model_path())
    loading = {"revision": model_args.model_revision, "trust_remote_code": config.trust_remote_code}
    tokenizer = load_tokenizer(name, **loading)
    loading |= {"dtype": model_args.dtype, "attn_implementation": model_args.attn_implementation}
    model = load_model(name, trainable=True, **loading)
    room = (context_length(model) or 10**9) - config.max_completion_length
    train, held_out = load_splits(tokenizer, room, seed=config.seed, **vars(data_args))
    few = held_out.select(range(min(eval_args.eval_rows_in_training, len(held_out))))
    rewards = make_rewards(reward_args.rewards)
    judged = [*rewards, *make_rewards(eval_args.metrics or [])]
    decoding = eval_args.decoding(config.max_completion_length)
    measure = partial(evaluate_model, tokenizer=tokenizer, rewards=judged, **decoding)

    trainer = ReinforceTrainer(
        model,
        rewards,
        config,
        train,
        held_out_metrics=lambda policy: measure(model=policy, rows=few).values,
        eval_dataset=few,
        processing_class=tokenizer,
        peft_config=get_peft_config(model_args),
    )
    judges = partial(onlookers, eval_args.perplexity_model, name, tokenizer, trainer.accelerator.device, **loading)
    evaluations = {"before": measure(model=trainer.model, rows=held_out, **judges())}
    trainer.train(resume_from_checkpoint=config.resume_from_checkpoint)
    trainer.save_model()
    trainer.save_state()
    evaluations["after"] = measure(model=trainer.model, rows=held_out, **judges())
    if trainer.is_world_process_zero():
        folder, shown = eval_args.results_dir or config.output_dir, eval_args.num_samples_shown
        settings = {**vars(data_args), **vars(reward_args), **config.to_dict()}
        names, logs = [reward_name(reward) for reward in rewards], {"after": trainer.state.log_history}
        title = f"{Path(name).name}, before and after"
        report(evaluations, held_out, folder, shown, logs=logs, config=settings, rewarded=names, title=title)
        print(f"The model is in {config.output_dir}")


def onlookers(
    judge: str | None, start: str, tokenizer: PreTrainedTokenizerBase, device: torch.device, **loading: Any
) -> dict[str, Any]:
    """Returns the frozen models of an evaluation: the one that training starts from, and one that judges fluency."""
    reference = load_model(start, **loading).to(device)
    fluent = (load_model(judge).to(device), load_tokenizer(judge)) if judge else (reference, tokenizer)
    return {"reference_model": reference, "perplexity_model": fluent}


if __name__ == "__main__":
    run(main)
