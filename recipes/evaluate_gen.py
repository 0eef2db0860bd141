"""
Scores one or more checkpoints on held-out rows, side by side; the others are compared with the first.

    python recipes/evaluate_gen.py                                                # the embedded demo model
    python recipes/evaluate_gen.py --checkpoints sft=runs/sft ppo=runs/ppo --dataset_name data/dev.jsonl
    python recipes/evaluate_gen.py --help
"""

import torch

from lmrl.arguments import ComparisonArguments, DataArguments, EvaluationArguments, ModelArguments
from lmrl.cli import parse, run
from lmrl.data import demo_model_path, load_held_out
from lmrl.evaluation import evaluate_model, report
from lmrl.models import load_model, load_tokenizer
from lmrl.rewards import make_rewards


def main() -> None:
    """Evaluate each checkpoint on the same rows, and print them as a table."""
    model_args, data_args, eval_args, compare_args = parse(
        ModelArguments, DataArguments, EvaluationArguments, ComparisonArguments
    )
    checkpoints = labelled(compare_args.checkpoints or [str(model_args.model_name_or_path or demo_model_path())])
    rows = load_held_out(**vars(data_args))
    judge_name = eval_args.perplexity_model or next(iter(checkpoints.values()))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    judge = load_model(judge_name).to(device), load_tokenizer(judge_name)
    evaluations = {}
    for label, path in checkpoints.items():
        evaluations[label] = evaluate_model(
            load_model(path, dtype=model_args.dtype).to(device),
            load_tokenizer(path),
            rows,
            max_new_tokens=eval_args.max_new_tokens or 64,
            do_sample=eval_args.do_sample,
            num_beams=eval_args.num_beams,
            temperature=compare_args.temperature,
            num_samples=compare_args.num_samples,
            batch_size=eval_args.batch_size,
            rewards=make_rewards(eval_args.metrics or []),
            perplexity_model=judge,
            seed=compare_args.seed,
        )
    report(evaluations, rows, eval_args.results_dir or "runs/evaluation", eval_args.num_samples_shown)


def labelled(checkpoints: list[str]) -> dict[str, str]:
    """Returns the checkpoints by label: `name=path`, or the last part of the path."""
    pairs = [text.split("=", 1) if "=" in text else [text.rstrip("/").split("/")[-1], text] for text in checkpoints]
    labels = [label for label, _ in pairs]
    if len(set(labels)) < len(labels):
        raise ValueError(f"checkpoints are called {labels}, and names must differ: write name=path.")
    return {label: path for label, path in pairs}


if __name__ == "__main__":
    run(main)
