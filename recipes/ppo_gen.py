"""
Fine-tunes a causal language model against sequence-level rewards with PPO, and says whether it got better.

    accelerate launch recipes/ppo_gen.py                                        # the embedded demo, offline
    accelerate launch recipes/ppo_gen.py --config recipes/configs/e2e_ppo.yaml  # a YAML file; flags override it
    python recipes/ppo_gen.py --help
"""

from pathlib import Path

from trl import get_peft_config

from lmrl.arguments import DataArguments, EvaluationArguments, ModelArguments, RewardArguments
from lmrl.cli import parse, run
from lmrl.data import demo_model_path, load_splits
from lmrl.evaluation import Evaluation, evaluate_model, report
from lmrl.models import context_length, load_model, load_tokenizer
from lmrl.rewards import make_rewards
from lmrl.trainers import PPOConfig, PPOTrainer

DEMO = Path(__file__).parent / "configs" / "demo_ppo.yaml"


def main() -> None:
    """Train, and print the held-out scores before and after."""
    model_args, data_args, reward_args, eval_args, config = parse(
        ModelArguments, DataArguments, RewardArguments, EvaluationArguments, PPOConfig, demo=DEMO
    )
    name = model_args.model_name_or_path or demo_model_path()
    loading = {"revision": model_args.model_revision, "trust_remote_code": config.trust_remote_code}
    tokenizer = load_tokenizer(name, **loading)
    loading |= {"dtype": model_args.dtype, "attn_implementation": model_args.attn_implementation}
    model = load_model(name, trainable=True, **loading)
    room = (context_length(model) or 10**9) - config.max_completion_length
    train, held_out = load_splits(tokenizer, room, seed=config.seed, **vars(data_args))
    rewards = make_rewards(reward_args.rewards)
    judge_name = eval_args.perplexity_model or name

    trainer = PPOTrainer(
        model, rewards, config, train, processing_class=tokenizer, peft_config=get_peft_config(model_args)
    )

    def measure() -> Evaluation:
        judge = load_model(judge_name, **(loading if judge_name == name else {})).to(trainer.accelerator.device)
        return evaluate_model(
            trainer.model,
            tokenizer,
            held_out,
            max_new_tokens=eval_args.max_new_tokens or config.max_completion_length,
            do_sample=eval_args.do_sample,
            num_beams=eval_args.num_beams,
            batch_size=eval_args.batch_size,
            rewards=[*rewards, *make_rewards(eval_args.metrics or [])],
            perplexity_model=(judge, tokenizer if judge_name == name else load_tokenizer(judge_name)),
        )

    shows = trainer.is_world_process_zero()
    evaluations = {"before": measure()} if shows else {}
    trainer.train(resume_from_checkpoint=config.resume_from_checkpoint)
    trainer.save_model()
    trainer.save_state()
    if shows:
        folder = eval_args.results_dir or config.output_dir
        report(evaluations | {"after": measure()}, held_out, folder, eval_args.num_samples_shown)
        print(f"The model is in {config.output_dir}")


if __name__ == "__main__":
    run(main)
