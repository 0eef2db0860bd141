"""The held-out evaluation of a run, and the frozen models that it needs."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from lmrl.evaluation import Decoding, Evaluator, FrozenModels, higher_is_better
from lmrl.evaluation.likelihood import MODEL_SCORES
from lmrl.evaluation.metrics import METRICS
from lmrl.experiment.named import names_of_scores, rewards_to_measure
from lmrl.experiment.policies import model_name, model_source
from lmrl.models import load_model, load_tokenizer
from lmrl.rewards import reward_name
from lmrl.utils import check_in, known_as

OF_SEVERAL_ROWS = ("cider", "self_bleu")  # metrics that are NaN for a single row


def make_evaluator(
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    reward_funcs: Sequence[Any],
    model_args: Any,
    eval_args: Any,
    config: Any,
) -> Evaluator:
    """
    Returns the held-out evaluation of a run: the rewards that are trained on and further metrics of the held-out rows,
    and the divergence from the model of `model_args` ([`~lmrl.arguments.ModelArguments`]), from which training starts.
    `eval_args` ([`~lmrl.arguments.EvaluationArguments`]) and the trainer's `config` have the settings.

    Raises:
        ValueError: If a metric is unknown, or if `metric_for_best_model` is not measured during training, has no value
            for a single row, or contradicts `greater_is_better`.
    """
    loading = model_source(model_args, config) | model_args.loading(bf16=config.bf16)
    frozen = partial(load_frozen_models, model_name(model_args), eval_args.eval_perplexity_model, **loading)
    decoding = eval_args.decoding(config.max_completion_length)
    if eval_args.eval_do_sample:
        decoding["temperature"] = config.temperature  # of the policy that is trained
    evaluator = Evaluator(
        tokenizer,
        rows,
        Decoding(**decoding, chat_template_kwargs=config.chat_template_kwargs),
        reward_funcs=rewards_to_measure(reward_funcs, eval_args.eval_metrics, eval_args.win_rate),
        reward_weights=weights_by_name(reward_funcs, config.reward_weights),
        subset_size=eval_args.eval_subset,
        load_frozen_models=frozen,
    )
    check_scores(eval_args.primary_metrics, eval_args.win_rate, evaluator.names_in_training)
    if config.metric_for_best_model is not None:
        config.greater_is_better = _greater_is_better(config, evaluator.names_in_training)
        name = config.metric_for_best_model.removeprefix("eval_")
        if name in OF_SEVERAL_ROWS and len(evaluator.subset) == 1:
            raise ValueError(
                f"`metric_for_best_model` must have a value for a single held-out row, got {name!r}. Evaluate more "
                "rows during training (`eval_subset`), or choose by another metric."
            )
    return evaluator


def check_scores(primary: Sequence[str] | None, win_rate: Sequence[Any] | None, measured: Sequence[str]) -> None:
    """Raises a `ValueError` for the first metric to test, or to compare by, that an evaluation does not measure."""
    for name in primary or ():
        check_in([*measured, *MODEL_SCORES], primary_metrics=name)
    names_of_scores(win_rate, [*measured, *MODEL_SCORES])


def weights_by_name(reward_funcs: Sequence[Any], weights: Sequence[float] | None) -> dict[str, float]:
    """Returns the weight of each reward by its name; 1 without weights."""
    # Not strict: the trainer raises a clear error if the numbers of weights and rewards differ.
    return dict(zip(map(reward_name, reward_funcs), weights or [1.0] * len(reward_funcs), strict=False))


def weights_of_recipe(values: Mapping[str, Any], args: Any, searched: Collection[str]) -> list[float] | None:
    """
    Returns the weights of a recipe's rewards from its arguments by name, `values`; `None` for a recipe without
    rewards, or whose arguments are unknown. `args` are a sweep's; `searched` names the arguments that it varies.

    Raises:
        ValueError: If the recipe does not measure the objective, or no KL although `max_kl` bounds it.
    """
    measured = _objectives(values, args.objective, searched)
    if measured is not None:
        check_in(measured, objective=args.objective)
        if args.max_kl is not None and "kl" not in measured:
            raise ValueError(f"`max_kl` must be left out, got {args.max_kl}: this recipe measures no KL.")
    rewards = values.get("rewards") or []
    return list(values.get("reward_weights") or [1.0] * len(rewards)) if "rewards" in values else None


def _objectives(values: Mapping[str, Any], objective: str, searched: Collection[str]) -> list[str] | None:
    """Returns the names of the scores that a recipe measures of its trained model; `None` if they are unknown."""
    if "class_names" in values or "grade_columns" in values:
        return ["accuracy", *(["macro_f1"] if "class_names" in values else []), "log_loss", "calibration_error"]
    if "eval_metrics" not in values:
        return None
    rewards = [*(values.get("rewards") or []), *(values["eval_metrics"] or [])]
    named = []
    if objective.startswith("reward/"):
        is_open = not {"rewards", "eval_metrics"}.isdisjoint(searched)
        made = rewards_to_measure([], [] if is_open else rewards, values.get("win_rate"))
        named = [objective] if is_open else [f"reward/{reward_name(each)}" for each in made]
    if "rewards" in values:
        return ["reward", *named, *METRICS, *MODEL_SCORES]
    return ["reference_perplexity", *named, *METRICS, *(["perplexity"] if values["eval_perplexity_model"] else [])]


def _greater_is_better(config: Any, measured: Sequence[str]) -> bool:
    """Returns `greater_is_better` for `metric_for_best_model`; raises an error if the two do not fit."""
    name = config.metric_for_best_model.removeprefix("eval_")
    given = config.given_greater_is_better
    check_in(measured, metric_for_best_model=name)
    better = higher_is_better(name)
    if given is None and better is None:
        raise ValueError(f"`greater_is_better` must be set for {name!r}, of which neither more nor less is better.")
    if None not in (given, better) and given != better:
        raise ValueError(f"`greater_is_better` must be {better} for {name!r}, got {given}. Leave it out.")
    return bool(given if better is None else better)


def load_frozen_models(
    reference: str | None, perplexity_model: str | None, device: torch.device, **loading: Any
) -> FrozenModels:
    """
    Returns the frozen models that an evaluation needs: the `reference`, from which training starts, with the options
    `loading` of [`~lmrl.models.load_model`], and the model under which the perplexity of completions is computed, by
    default the reference.

    Raises:
        ValueError: If one of them cannot be loaded.
    """
    model = None if reference is None else load_model(reference, device=device, **loading)
    if perplexity_model is not None:
        with known_as("eval_perplexity_model"):
            pair = (load_model(perplexity_model, device=device), load_tokenizer(perplexity_model))
        return FrozenModels(model, pair)
    return FrozenModels(model, None if model is None else (model, load_tokenizer(str(reference))))
