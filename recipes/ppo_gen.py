"""
Fine-tunes a causal language model against sequence-level rewards with PPO, and says whether it got better.

    accelerate launch recipes/ppo_gen.py                                        # the embedded demo, offline
    accelerate launch recipes/ppo_gen.py --config recipes/configs/e2e_ppo.yaml  # a YAML file; flags override it
    python recipes/ppo_gen.py --help
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from lmrl.arguments import DataArguments, EvaluationArguments, ModelArguments, RewardArguments
from lmrl.cli import parse, run
from lmrl.data import demo_model_path, load_splits
from lmrl.evaluation import Decoding, Evaluation, Evaluator, FrozenModels, report, write_card
from lmrl.models import context_length, load_model, load_tokenizer, write_merged
from lmrl.rewards import make_rewards
from lmrl.trainers import PPOConfig, PPOTrainer
from transformers import PreTrainedTokenizerBase
from trl import get_peft_config

DEMO = Path(__file__).parent / "configs" / "demo_ppo.yaml"


def main() -> None:
    """Train, and print the held-out scores before and after."""
    model_args, data_args, reward_args, eval_args, config = parse(
        ModelArguments, DataArguments, RewardArguments, EvaluationArguments, PPOConfig, demo=DEMO
    )
    name = str(model_args.model_name_or_path or demo_model_path())
    loading = {"revision": model_args.model_revision, "trust_remote_code": config.trust_remote_code}
    tokenizer = load_tokenizer(name, **loading)
    loading |= model_args.loading()
    model = load_model(name, trainable=True, **loading)
    room = (context_length(model) or 10**9) - config.max_completion_length
    train, held_out = load_splits(tokenizer, room, seed=config.seed, **vars(data_args))
    rewards = make_rewards(reward_args.rewards)
    evaluator = Evaluator(
        tokenizer,
        held_out,
        Decoding(**eval_args.decoding(config.max_completion_length)),
        reward_funcs=[*rewards, *make_rewards(eval_args.eval_metrics or [])],
        subset_size=eval_args.eval_subset,
        load_frozen_models=partial(load_frozen_models, eval_args.eval_perplexity_model, name, tokenizer, **loading),
    )

    trainer = PPOTrainer(
        model,
        rewards,
        config,
        train,
        held_out_metrics=evaluator.scores,
        eval_dataset=evaluator.subset,
        processing_class=tokenizer,
        peft_config=get_peft_config(model_args),
    )
    with trainer.gathered_policy() as policy:
        evaluations = {"before": evaluator(policy)}
    trainer.train(resume_from_checkpoint=config.resume_from_checkpoint)
    trainer.save_model()
    trainer.save_state()
    with trainer.gathered_policy() as policy:
        evaluations["after"] = evaluator(policy)
    if trainer.is_world_process_zero():
        if model_args.merge:
            print(f"The merged model is in {write_merged(config.output_dir, dtype=model_args.dtype)}")
        tell(trainer, evaluations, held_out, model_args, data_args, reward_args, eval_args)
    if config.push_to_hub:
        trainer.push_to_hub(commit_message="Scores and model card")


def load_frozen_models(
    perplexity_model: str | None, start: str, tokenizer: PreTrainedTokenizerBase, device: torch.device, **loading: Any
) -> FrozenModels:
    """Returns the model that training starts from and the one that gives the perplexity, by default the same."""
    reference = load_model(start, device=device, **loading)
    if perplexity_model is None:
        return FrozenModels(reference, (reference, tokenizer))
    return FrozenModels(reference, (load_model(perplexity_model, device=device), load_tokenizer(perplexity_model)))


def tell(trainer: PPOTrainer, evaluations: dict[str, Evaluation], rows: Dataset, *told: Any) -> None:
    """Prints what came out, and writes the report and the model card."""
    settings = {name: value for part in told for name, value in vars(part).items()} | trainer.args.to_dict()
    folder, name = trainer.args.output_dir, settings["model_name_or_path"] or demo_model_path()
    run = {"logs": {"after": trainer.state.log_history}, "rewarded": trainer.reward_func_names, "config": settings}
    places = settings["eval_output_dir"] or folder, settings["eval_num_completions_to_print"]
    facts: dict[str, Any] = {"algorithm": trainer.name, "citation": trainer.citation}
    facts["settings"] = {field: getattr(trainer.args, field) for field in trainer.reported_settings}
    compared = report(evaluations, rows, *places, title=f"{Path(name).name}, before and after", **run)
    trainer.model_card = write_card(folder, evaluations, rows, compared=compared, **facts, **run)
    print(f"The model is in {folder}")


if __name__ == "__main__":
    run(main)
