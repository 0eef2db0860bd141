"""
Scores checkpoints, and texts of other systems, on held-out rows, side by side; all are compared with the first.

    python recipes/evaluate_gen.py                                                # the embedded demo model
    python recipes/evaluate_gen.py --checkpoints sft=runs/sft ppo=runs/ppo --dataset_name data/dev.jsonl
    torchrun --nproc_per_node 2 recipes/evaluate_gen.py --checkpoints runs/sft runs/ppo --outputs human=texts.txt
    python recipes/evaluate_gen.py --help
"""

from functools import partial
from pathlib import Path

from accelerate import PartialState
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lmrl.arguments import ComparisonArguments, DataArguments, EvaluationArguments, ModelArguments
from lmrl.cli import parse, run
from lmrl.data import demo_model_path, load_held_out
from lmrl.evaluation import CompletionStore, evaluate_model, measure_completions, read_log, read_outputs, report
from lmrl.models import load_model, load_tokenizer
from lmrl.rewards import make_rewards


def main() -> None:
    """Evaluate everything on each data set, and report it there."""
    model_args, data_args, eval_args, compare_args = parse(
        ModelArguments, DataArguments, EvaluationArguments, ComparisonArguments
    )
    outputs = labelled(compare_args.outputs or [])
    own = [] if outputs else [str(model_args.model_name_or_path or demo_model_path())]
    checkpoints = labelled(compare_args.checkpoints or own)
    labelled([*checkpoints, *outputs])  # a checkpoint and a file may not share a name
    process = PartialState()
    judge_name = eval_args.perplexity_model or next(iter(checkpoints.values()), None)
    judge = (load_model(judge_name).to(process.device), load_tokenizer(judge_name)) if judge_name else None
    measure = partial(measure_completions, rewards=make_rewards(eval_args.metrics or []), judge=judge)
    for name, source in labelled(compare_args.datasets or [data_args.dataset_name]).items():
        rows = load_held_out(**{**vars(data_args), "dataset_name": source})
        folder = Path(eval_args.results_dir or "runs/evaluation", name if compare_args.datasets else "")
        evaluations = {}
        for label, path in checkpoints.items():
            model = load_model(path, dtype=model_args.dtype).to(process.device)
            evaluations[label] = evaluate_model(
                model,
                load_tokenizer(path),
                rows,
                **eval_args.decoding(64),
                **compare_args.sampling(),
                rewards=measure.keywords["rewards"],
                perplexity_model=judge,
                reference_model=None if eval_args.perplexity_model else reference(judge, model),
                store=CompletionStore(folder / "partial", label),
            )
        if process.is_main_process:
            for label, path in outputs.items():
                evaluations[label] = measure(read_outputs(path, rows, judge and judge[1]), rows)
            logs = {label: read_log(path) for label, path in checkpoints.items()}
            report(evaluations, rows, folder, eval_args.num_samples_shown, logs=logs, title=f"Evaluation on {name}")
            for label in checkpoints:
                CompletionStore(folder / "partial", label).remove()


def reference(
    judge: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None, model: PreTrainedModel
) -> PreTrainedModel | None:
    """Returns the first checkpoint, for the KL to it, where it has the tokens of this one."""
    return judge[0] if judge and judge[0].config.vocab_size == model.config.vocab_size else None


def labelled(names: list[str]) -> dict[str, str]:
    """Returns paths by label, given as `label=path`, or by the last part of the path."""
    pairs = [text.split("=", 1) if "=" in text else [text.rstrip("/").split("/")[-1], text] for text in names]
    labels = [label for label, _ in pairs]
    if len(set(labels)) < len(labels):
        raise ValueError(f"{labels} are the names of what is compared, and names must differ: write name=path.")
    return {label: path for label, path in pairs}


if __name__ == "__main__":
    run(main)
