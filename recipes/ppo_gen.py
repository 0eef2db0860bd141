"""
Fine-tunes a causal language model on sequence-level rewards with PPO, and evaluates it before and after.

    accelerate launch recipes/ppo_gen.py                                       # the embedded demo, offline
    accelerate launch recipes/ppo_gen.py --config recipes/configs/e2e_ppo.yaml  # flags override the YAML file
    python recipes/ppo_gen.py --help
"""

from pathlib import Path

import lmrl.cli.instant_help  # noqa: F401  prints --help before the libraries are imported
from lmrl.arguments import DataArguments, EvaluationArguments, ModelArguments, OutputArguments, RewardArguments
from lmrl.cli import parse, run
from lmrl.experiment import evaluate, load_policy, load_rows, make_evaluator, prepare_run, save_report, start_run
from lmrl.rewards import make_rewards
from lmrl.trainers import PPOConfig, PPOTrainer

ARGUMENTS = (ModelArguments, DataArguments, RewardArguments, EvaluationArguments, OutputArguments, PPOConfig)


def main() -> None:
    demo = Path(__file__).parent / "configs" / "demo_ppo.yaml"
    model_args, data_args, reward_args, eval_args, output_args, config = parse(*ARGUMENTS, demo=demo)
    prepare_run(config, model_args, data_args, reward_args, eval_args, output_args)
    model, tokenizer = load_policy(model_args, config)
    train_rows, eval_rows = load_rows(data_args, model, tokenizer, config)
    reward_funcs = make_rewards(reward_args.rewards)
    evaluator = make_evaluator(tokenizer, eval_rows, reward_funcs, model_args, eval_args, config)
    trainer = PPOTrainer(
        model,
        reward_funcs,
        config,
        train_rows,
        eval_dataset=evaluator.subset,
        held_out_metrics=evaluator.scores,
        processing_class=tokenizer,
        peft_config=model_args.peft_config(),
    )
    start_run(trainer, train_rows, eval_rows, model_args, data_args, reward_args, eval_args)
    evaluations = {"before": evaluate(trainer, evaluator)}
    trainer.train(resume_from_checkpoint=config.resume_from_checkpoint)
    trainer.save_model()
    trainer.save_state()
    evaluations["after"] = evaluate(trainer, evaluator)
    save_report(trainer, evaluations, eval_rows, model_args, data_args, reward_args, eval_args)


if __name__ == "__main__":
    run(main)
