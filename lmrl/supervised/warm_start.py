"""The held-out evaluation of a warm start: completions, and the perplexity of the references."""

from dataclasses import replace
from functools import partial
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lmrl.data import to_supervised
from lmrl.evaluation import Completion, Decoding, Evaluation, Evaluator, perplexity
from lmrl.evaluation.encoding import encode_prompts
from lmrl.experiment import load_frozen_models
from lmrl.experiment.evaluators import check_scores
from lmrl.experiment.named import rewards_to_measure
from lmrl.experiment.tracking import log_scores
from lmrl.models import context_length
from lmrl.rewards import completion_text
from lmrl.trainers.engines import gathered_policy


def make_supervised_evaluator(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Dataset, eval_args: Any, config: Any
) -> Evaluator:
    """
    Returns an evaluator on the first `eval_subset` held-out rows, so that its cost does not grow with the data.

    Completions may be as long as the longest of all references, unless `eval_max_new_tokens` is set.

    Args:
        model (`transformers.PreTrainedModel`), tokenizer (`transformers.PreTrainedTokenizerBase`):
            The model to train and its tokenizer.
        rows (`datasets.Dataset`):
            Held-out rows with `prompt` and `references`.
        eval_args ([`~lmrl.arguments.WarmStartEvaluationArguments`]):
            Metrics, decoding, number of rows.
        config ([`WarmStartConfig`]):
            Configuration of the trainer, with the variables of the chat template.
    """
    rows = rows.select(range(min(eval_args.eval_subset, len(rows))))
    variables = config.chat_template_kwargs
    longest = max(len(tokenizer(text)["input_ids"]) for text in _texts(to_supervised(rows))) + 1  # with its EOS
    if (limit := context_length(model)) is not None:
        longest = min(longest, limit - max(map(len, encode_prompts(tokenizer, rows["prompt"], variables))))
    frozen = partial(load_frozen_models, None, eval_args.eval_perplexity_model)
    evaluator = Evaluator(
        tokenizer,
        rows,
        Decoding(**eval_args.decoding(longest), chat_template_kwargs=variables),
        reward_funcs=rewards_to_measure([], eval_args.eval_metrics, eval_args.win_rate),
        load_frozen_models=frozen if eval_args.eval_perplexity_model else None,
    )
    names = ["reference_perplexity", *evaluator.names_in_training]
    check_scores(eval_args.primary_metrics, eval_args.win_rate, names)
    return evaluator


def first_references(rows: Dataset, chat_template_kwargs: dict[str, Any] | None = None) -> Dataset:
    """Returns the prompt and the first reference of each row, in the form of [`~lmrl.data.to_supervised`]."""
    firsts = [{"prompt": row["prompt"], "references": row["references"][:1]} for row in rows]
    return to_supervised(Dataset.from_list(firsts), chat_template_kwargs=chat_template_kwargs)


def evaluate_supervised(trainer: Any, evaluator: Evaluator) -> Evaluation:
    """
    Returns the evaluation of the model of an [`~trl.SFTTrainer`] before or after training, by an `evaluator` of
    [`make_supervised_evaluator`], and logs its scores. Among them is the perplexity of the first references under the
    model, which is e to the power of the held-out loss. All processes must call it.
    """
    rows, variables = evaluator.rows, evaluator.decoding.chat_template_kwargs
    texts = [Completion(row, 0, text, 0, True) for row, text in enumerate(_texts(first_references(rows)))]
    with gathered_policy(trainer.model_wrapped, trainer.accelerator, trainer.args) as policy:
        evaluation = evaluator(policy)
        score = perplexity(policy, evaluator.tokenizer, rows["prompt"], texts, chat_template_kwargs=variables)
    signature = score.signature.partition("|")[2]  # without the folder of the model, which differs
    named = replace(score, name="reference_perplexity", signature=f"of:the first reference|{signature}")
    evaluation = replace(evaluation, scores={named.name: named, **evaluation.scores})
    log_scores(trainer, evaluation.values)
    return evaluation


def _texts(pairs: Dataset) -> list[str]:
    return [completion_text(completion) for completion in pairs["completion"]]
