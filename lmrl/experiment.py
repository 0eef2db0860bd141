"""The steps that recipes share: load the policy, make its evaluator, save what came out."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lmrl import models
from lmrl.data import demo_model_path, fit_prompts, load_held_out, load_splits
from lmrl.distributed import rank_and_world_size
from lmrl.evaluation import (
    CompletionStore,
    Decoding,
    Evaluation,
    Evaluator,
    FrozenModels,
    evaluate_model,
    higher_is_better,
    measure_completions,
    read_outputs,
    report,
    write_card,
)
from lmrl.models import context_length, load_model, load_tokenizer, write_merged
from lmrl.rewards import make_rewards
from lmrl.utils import check_in, known_as, labelled

logger = logging.getLogger(__name__)

_CHECKPOINTS = "checkpoints` or `model_name_or_path"
_NO_LIMIT = 10**9  # tokens of a prompt, where a model names no limit


def load_policy(model_args: Any, config: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    Returns the policy to train and its tokenizer.

    Args:
        model_args ([`~lmrl.arguments.ModelArguments`]):
            The model, its precision, its quantization. Without a name it is lmrl's demo model.
        config (`transformers.TrainingArguments`):
            Configuration of the trainer, which has `trust_remote_code`.

    Raises:
        ValueError: If there is no such model, or no tokenizer beside it.
    """
    options = _source(model_args, config) | model_args.loading(bf16=config.bf16)
    with known_as("model_name_or_path"):
        shown = getattr(config, "visible_tokens", None)  # which supervised training has not
        model, tokenizer = models.load_policy(_name(model_args), None, shown, **options)
    if not model_args.use_peft:  # which trains other weights, in float32
        _warn_if_weights_are_too_coarse(model, config.learning_rate)
    return model, tokenizer


def _warn_if_weights_are_too_coarse(model: PreTrainedModel, learning_rate: float) -> None:
    """Warns if most of the weights to train are in so few bits that a step of AdamW rounds to nothing."""
    weights = [weight for weight in model.parameters() if weight.requires_grad and weight.dtype.itemsize == 2]
    if any(weight.numel() for weight in weights):  # under ZeRO-3 all are empty here, and its optimizer has float32
        # A step is about the learning rate; half of the distance to the next number is the least that counts.
        eps = torch.finfo(weights[0].dtype).eps
        fixed = sum(int((weight.detach().abs() * (eps / 4) > learning_rate).sum()) for weight in weights)
        share = fixed / sum(weight.numel() for weight in weights)
        if share > 0.5:
            logger.warning(
                f"`learning_rate` is {learning_rate:g}, and a step of that size rounds to nothing for {share:.0%} of "
                f"the weights in {weights[0].dtype}. Load them in float32 (`--dtype float32`, with `--bf16 true` for "
                "the speed of bfloat16), train a LoRA adapter, or raise it."
            )


def load_rows(
    data_args: Any, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: Any
) -> tuple[Dataset, Dataset]:
    """
    Returns the rows to train on and the held-out rows, whose prompts leave room for a completion.

    Args:
        data_args ([`~lmrl.arguments.DataArguments`]):
            The data set, and how rows become prompts.
        model (`transformers.PreTrainedModel`), tokenizer (`transformers.PreTrainedTokenizerBase`):
            The policy and its tokenizer.
        config ([`~lmrl.trainers.PolicyGradientConfig`]):
            Configuration of the trainer, with the length of completions and the variables of the chat template.

    Raises:
        FileNotFoundError, ValueError: As [`~lmrl.data.load_splits`].
    """
    room = (context_length(model) or _NO_LIMIT) - int(config.max_completion_length)
    return load_splits(tokenizer, room, config.chat_template_kwargs, **vars(data_args))


def make_evaluator(
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    reward_funcs: Sequence[Any],
    model_args: Any,
    eval_args: Any,
    config: Any,
) -> Evaluator:
    """
    Returns the held-out evaluation of a run: its rewards and metrics, and the divergence from where it started.

    Args:
        tokenizer (`transformers.PreTrainedTokenizerBase`):
            Tokenizer of the policy.
        rows (`datasets.Dataset`):
            Held-out rows.
        reward_funcs (list of callables):
            Reward functions that are trained on.
        model_args ([`~lmrl.arguments.ModelArguments`]):
            The model that training starts from, which is the reference.
        eval_args ([`~lmrl.arguments.EvaluationArguments`]):
            Metrics, decoding, the subset for evaluations during training.
        config ([`~lmrl.trainers.PolicyGradientConfig`]):
            Configuration of the trainer, with the default length and the variables of the chat template.

    Raises:
        ValueError: If a metric is unknown, or `metric_for_best_model` is not measured during training or has another
            direction than `greater_is_better`.
    """
    loading = _source(model_args, config) | model_args.loading(bf16=config.bf16)
    evaluator = Evaluator(
        tokenizer,
        rows,
        Decoding(**eval_args.decoding(config.max_completion_length), chat_template_kwargs=config.chat_template_kwargs),
        reward_funcs=[*reward_funcs, *make_rewards(eval_args.eval_metrics or [])],
        subset_size=eval_args.eval_subset,
        load_frozen_models=partial(load_frozen_models, _name(model_args), eval_args.eval_perplexity_model, **loading),
    )
    if config.metric_for_best_model is not None:
        config.greater_is_better = _greater_is_better(config, evaluator.names_in_training)
    return evaluator


def _greater_is_better(config: Any, measured: Sequence[str]) -> bool:
    """Returns the direction of the metric of the best checkpoint, if it is measured and none is set against it."""
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
    Returns the models that an evaluation compares with.

    Args:
        reference (`str`, *optional*):
            Model that training starts from: folder or hub id.
        perplexity_model (`str`, *optional*):
            Model that gives the perplexity of completions. By default it is the reference.
        device (`torch.device`):
            Where the models are put.
        **loading:
            Passed on to [`~lmrl.models.load_model`] for the reference.

    Raises:
        ValueError: If one of them cannot be loaded.
    """
    model = None if reference is None else load_model(reference, device=device, **loading)
    if perplexity_model is not None:
        with known_as("eval_perplexity_model"):
            pair = (load_model(perplexity_model, device=device), load_tokenizer(perplexity_model))
        return FrozenModels(model, pair)
    return FrozenModels(model, None if model is None else (model, load_tokenizer(str(reference))))


def save_report(trainer: Any, evaluations: Mapping[str, Evaluation], rows: Dataset, *argument_groups: Any) -> None:
    """
    Prints the evaluations of a run, and writes its scores, report and model card; uploads them with `push_to_hub`.

    An adapter is also written merged into its base, if `merge` is set. All processes must call it.

    Args:
        trainer ([`~lmrl.trainers.PolicyGradientTrainer`]):
            Trainer after the training, with its model saved.
        evaluations (`dict` of [`~lmrl.evaluation.Evaluation`]):
            Evaluations by label; the first is the one before training, the last the one after it.
        rows (`datasets.Dataset`):
            Held-out rows.
        *argument_groups:
            Arguments of the recipe, [`~lmrl.arguments.ModelArguments`] and
            [`~lmrl.arguments.EvaluationArguments`] among them; the report shows all of them.
    """
    settings = {name: value for group in argument_groups for name, value in vars(group).items()}
    settings |= trainer.args.to_dict()
    folder = trainer.args.output_dir
    if trainer.is_world_process_zero():
        save_merged(settings["merge"], folder, settings["dtype"])
        run = {
            "logs": {list(evaluations)[-1]: trainer.state.log_history},
            "rewarded": trainer.reward_func_names,
            "config": settings,
        }
        start = Path(settings["model_name_or_path"] or demo_model_path()).name
        compared = None
        try:
            compared = report(
                evaluations,
                rows,
                settings["eval_output_dir"] or folder,
                settings["eval_num_completions_to_print"],
                title=f"{start}, {' and '.join(evaluations)}",
                **run,
            )
        finally:  # also where nothing can be printed, as into a pipe that is closed
            trainer.model_card = write_card(
                folder,
                evaluations,
                rows,
                algorithm=trainer.name,
                citation=trainer.citation,
                settings={name: getattr(trainer.args, name) for name in trainer.reported_settings},
                compared=compared,
                **run,
            )
        print(f"The model is in {folder}")
    if trainer.args.push_to_hub:
        trainer.push_to_hub(commit_message="Scores and model card")


def save_merged(merge: bool, folder: str, dtype: str | None) -> None:
    """Writes the adapter in a folder merged into its base, with weights of this precision, if `merge` is set."""
    if merge:
        print(f"The merged model is in {write_merged(folder, dtype=dtype)}")


def load_eval_sets(data_args: Any, datasets: Sequence[str] | None) -> dict[str, Dataset]:
    """
    Returns the held-out rows of one or several data sets, by their labels.

    Args:
        data_args ([`~lmrl.arguments.HeldOutArguments`]):
            How rows become prompts, the same for all; and the data set, where no others are given.
        datasets (list of `str`, *optional*):
            Files, folders or hub ids, each as `path` or `label=path`.

    Raises:
        FileNotFoundError: If there is nothing by one of these names.
        ValueError: If rows cannot be read, or two data sets have the same label.
    """
    names = labelled("datasets", datasets or [data_args.eval_dataset_name or data_args.dataset_name])
    shared = vars(data_args) | {"eval_dataset_name": None}
    for of_fit in ("max_prompt_length", "long_prompts"):  # read by SystemEvaluator.fit
        del shared[of_fit]
    return {label: load_held_out(**shared | {"dataset_name": name}) for label, name in names.items()}


class SystemEvaluator:
    """
    The evaluation of several systems on the same rows: checkpoints, and texts from files.

    All processes must call it: they share the generation, the main process computes the metrics.

    Args:
        checkpoints (`dict` of `str`):
            Folders or hub ids by label. The first is the reference, and by default gives the perplexity.
        outputs (`dict` of `str`):
            Files of texts by label, as [`~lmrl.evaluation.read_outputs`] reads them.
        decoding ([`~lmrl.evaluation.Decoding`]):
            How completions are generated.
        reward_funcs (list of callables):
            Metrics besides the usual ones.
        perplexity_model (`str`, *optional*), device (`torch.device`), **loading:
            As for [`load_frozen_models`]; the checkpoints are loaded like the reference.

    Raises:
        ValueError: If a model or a tokenizer cannot be loaded.
    """

    def __init__(
        self,
        checkpoints: Mapping[str, str],
        outputs: Mapping[str, str],
        decoding: Decoding,
        reward_funcs: Sequence[Any],
        *,
        perplexity_model: str | None,
        **loading: Any,
    ):
        self.checkpoints = checkpoints
        self.outputs = outputs
        self.decoding = decoding
        self.reward_funcs = reward_funcs
        self.loading = loading
        with known_as(_CHECKPOINTS):
            self.tokenizers = {label: load_tokenizer(path) for label, path in checkpoints.items()}
            self.frozen = load_frozen_models(next(iter(checkpoints.values()), None), perplexity_model, **loading)

    def __call__(self, rows: Dataset, folder: Path) -> dict[str, Evaluation]:
        """
        Returns the evaluations by label.

        Args:
            rows (`datasets.Dataset`):
                Held-out rows.
            folder (`Path`):
                Where completions are kept until [`SystemEvaluator.clean_up`]: a killed evaluation continues.

        Raises:
            ValueError: If a file of texts does not fit the rows.
        """
        perplexity_model = self.frozen.perplexity_model
        tokenizer = None if perplexity_model is None else perplexity_model[1]
        texts = {label: read_outputs(path, rows, tokenizer) for label, path in self.outputs.items()}
        evaluations = {label: self._evaluate(label, rows, folder) for label in self.checkpoints}
        for label, completions in texts.items():
            evaluations[label] = measure_completions(
                completions,
                rows,
                reward_funcs=self.reward_funcs,
                perplexity_model=perplexity_model,
                length_unit="words" if tokenizer is None else "tokens|eos:included",
                chat_template_kwargs=self.decoding.chat_template_kwargs,
            )
        return evaluations

    def fit(self, rows: Dataset, data_args: Any) -> Dataset:
        """
        Returns the rows, none with a prompt longer than `max_prompt_length` or than the first checkpoint allows.

        Args:
            rows (`datasets.Dataset`), data_args ([`~lmrl.arguments.HeldOutArguments`]):
                Held-out rows, and what happens to longer prompts.
        """
        model = self.frozen.reference_model
        if model is None:
            if data_args.max_prompt_length is not None:
                raise ValueError(
                    "`max_prompt_length` must be set with a checkpoint, whose tokens it counts, got none."
                )
            return rows
        room = (context_length(model) or _NO_LIMIT) - self.decoding.max_new_tokens
        limit = min(room, data_args.max_prompt_length or room)
        tokenizer = next(iter(self.tokenizers.values()))
        if limit < 1:
            return rows
        return fit_prompts(rows, tokenizer, limit, data_args.long_prompts, self.decoding.chat_template_kwargs)

    def clean_up(self, folder: Path) -> None:
        """Deletes the completions that were kept in a folder."""
        for label in self.checkpoints:
            CompletionStore(folder / "partial", label).remove()

    def _evaluate(self, label: str, rows: Dataset, folder: Path) -> Evaluation:
        """Returns the evaluation of a checkpoint."""
        with known_as(_CHECKPOINTS):
            model = load_model(self.checkpoints[label], **self.loading)
        reference = self.frozen.reference_model
        comparable = reference is not None and self._same_tokens(label, model, reference)
        if not comparable and rank_and_world_size()[0] == 0:
            print(f"No kl of {label}: its tokens are not those of {next(iter(self.checkpoints))}.")
        return evaluate_model(
            model,
            self.tokenizers[label],
            rows,
            self.decoding,
            reward_funcs=self.reward_funcs,
            perplexity_model=self.frozen.perplexity_model,
            reference_model=reference if comparable else None,
            store=CompletionStore(folder / "partial", label),
        )

    def _same_tokens(self, label: str, model: PreTrainedModel, reference: PreTrainedModel) -> bool:
        """Returns whether a checkpoint has the tokens of the first, each with the same id: else there is no KL."""
        first, *_ = self.tokenizers.values()
        sizes = {each.config.get_text_config().vocab_size for each in (model, reference)}
        return len(sizes) == 1 and self.tokenizers[label].get_vocab() == first.get_vocab()


def _name(model_args: Any) -> str:
    return str(model_args.model_name_or_path or demo_model_path())


def _source(model_args: Any, config: Any) -> dict[str, Any]:
    """Returns the options of `from_pretrained` for where a model comes from."""
    return {"revision": model_args.model_revision, "trust_remote_code": config.trust_remote_code}
