"""
Scores checkpoints, and texts of other systems, on held-out rows, side by side; all are compared with the first.

    python recipes/evaluate_gen.py                                                # the embedded demo model
    python recipes/evaluate_gen.py --checkpoints sft=runs/sft ppo=runs/ppo --dataset_name data/dev.jsonl
    torchrun --nproc_per_node 2 recipes/evaluate_gen.py --checkpoints runs/sft runs/ppo --outputs human=texts.txt
    python recipes/evaluate_gen.py --help
"""

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from lmrl.arguments import ComparisonArguments, DataArguments, EvaluationArguments, ModelArguments
from lmrl.cli import parse, run
from lmrl.data import demo_model_path, load_held_out
from lmrl.evaluation import (
    CompletionStore,
    Decoding,
    evaluate_model,
    measure_completions,
    read_log,
    read_outputs,
    report,
)
from lmrl.models import load_model, load_tokenizer
from lmrl.rewards import make_rewards
from transformers import PreTrainedModel, PreTrainedTokenizerBase


def main() -> None:
    """Evaluate everything on each data set, and report it there."""
    model_args, data_args, eval_args, compare_args = parse(
        ModelArguments, DataArguments, EvaluationArguments, ComparisonArguments
    )
    # The others wait while the first one scores.
    process = PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=1))
    alone = model_args.model_name_or_path or (None if compare_args.outputs else demo_model_path())
    checkpoints = labelled(compare_args.checkpoints or ([str(alone)] if alone else []))
    files = labelled(compare_args.outputs or [], checkpoints)
    tokenizers = {label: load_tokenizer(path) for label, path in checkpoints.items()}
    logs = {label: read_log(path) for label, path in checkpoints.items()}
    data_sets, rewards = read_rows(data_args, compare_args.datasets), make_rewards(eval_args.eval_metrics or [])
    loading = model_args.loading(to_train=False)
    start = load(next(iter(checkpoints.values())), process.device, **loading) if checkpoints else None
    fluent = eval_args.eval_perplexity_model
    perplexity_model = load(fluent, process.device) if fluent else start
    unit = "tokens|eos:included" if perplexity_model else "words"
    decoding = Decoding(**eval_args.decoding(64), **compare_args.sampling())

    for name, rows in data_sets.items():
        folder = Path(eval_args.eval_output_dir or "runs/evaluation", name if compare_args.datasets else "")
        counting = perplexity_model and perplexity_model[1]
        texts = {label: read_outputs(path, rows, counting) for label, path in files.items()}
        evaluations = {}
        for label, path in checkpoints.items():
            model = load_model(path, device=process.device, **loading)
            evaluations[label] = evaluate_model(
                model,
                tokenizers[label],
                rows,
                decoding,
                reward_funcs=rewards,
                perplexity_model=perplexity_model,
                reference_model=start[0] if start and start[0].config.vocab_size == model.config.vocab_size else None,
                store=CompletionStore(folder / "partial", label),
            )
        if process.is_main_process:
            how = {"reward_funcs": rewards, "perplexity_model": perplexity_model, "length_unit": unit}
            evaluations |= {label: measure_completions(found, rows, **how) for label, found in texts.items()}
            shown = eval_args.eval_num_completions_to_print
            told = {**vars(data_args), **vars(eval_args), **vars(compare_args)}
            report(evaluations, rows, folder, shown, logs=logs, config=told, title=f"Evaluation on {name}")
            for label in checkpoints:
                CompletionStore(folder / "partial", label).remove()


def read_rows(data_args: DataArguments, names: list[str] | None) -> dict[str, Dataset]:
    """Returns the held-out rows of each data set, by its label."""
    named = labelled(names or [data_args.eval_dataset_name or data_args.dataset_name])
    whole = {**vars(data_args), "eval_dataset_name": None}
    return {label: load_held_out(**{**whole, "dataset_name": path}) for label, path in named.items()}


def load(path: str, device: torch.device, **loading: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Returns a checkpoint with its tokenizer."""
    return load_model(path, device=device, **loading), load_tokenizer(path)


def labelled(names: list[str], others: Iterable[str] = ()) -> dict[str, str]:
    """Returns paths by label, given as `label=path`, or by the last part of the path; no label may be among others."""
    found: dict[str, str] = {}
    for text in names:
        label, equals, path = text.partition("=")
        if not equals or "/" in label:  # the folder of a run may have an = in its own name
            label, path = text.rstrip("/").split("/")[-1], text
        if label in found or label in others:
            raise ValueError(f"two of what is compared are called {label!r}, and names must differ: write name=path")
        found[label] = path
    return found


if __name__ == "__main__":
    run(main)
