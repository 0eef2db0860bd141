"""The evaluation of several systems on the same rows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel

from lmrl.comparison import printed_tables, reference_column, with_samples, with_win_rates
from lmrl.data import fit_prompts, load_held_out
from lmrl.distributed import rank_and_world_size
from lmrl.evaluation import (
    CompletionStore,
    Decoding,
    Evaluation,
    evaluate_model,
    measure_completions,
    read_outputs,
    report,
)
from lmrl.evaluation.evaluate import score_names
from lmrl.evaluation.roles import metrics_of
from lmrl.experiment.banner import print_evaluation_banner
from lmrl.experiment.evaluators import check_scores, load_frozen_models, weights_by_name
from lmrl.experiment.named import names_of_scores, rewards_to_measure
from lmrl.experiment.policies import NO_LIMIT
from lmrl.experiment.reruns import load_run_rows
from lmrl.experiment.runs import RunRecord, trained_rows, with_trained_rows
from lmrl.models import context_length, load_model, load_tokenizer, show_special_tokens
from lmrl.rewards import make_reward, make_rewards
from lmrl.settings import COMMAND_LINE, check_unread
from lmrl.utils import known_as, labelled

_CHECKPOINTS = "checkpoints` or `model_name_or_path"


def load_eval_sets(data_args: Any, datasets: Sequence[str] | None, run: RunRecord | None = None) -> dict[str, Dataset]:
    """
    Returns the held-out rows of one or several data sets, by their labels. `datasets` has files, folders or hub ids,
    each as `path` or `label=path`; without it they are those that `data_args` name
    ([`~lmrl.arguments.HeldOutArguments`], which state how rows become prompts), or else those of the `run`.

    Raises:
        FileNotFoundError: If there is nothing by one of these names.
        ValueError: If rows cannot be read, or two data sets have the same label.
    """
    source = data_args.eval_dataset_name or data_args.dataset_name
    if datasets:
        check_unread(data_args, ("dataset_name", "eval_dataset_name"), "datasets", "with")
    elif data_args.eval_dataset_name is not None and (data_args.given or {}).get("dataset_name") == COMMAND_LINE:
        # In a file, `dataset_name` may be there for the recipes that train, which read both.
        check_unread(data_args, ("dataset_name",), "eval_dataset_name", "with")
    names = labelled("datasets", datasets or [source])
    if run is not None and not datasets:
        rows = load_run_rows(run, data_args)
        if rows is not None:
            return {f"held-out rows of {run.name}": rows}
    shared = vars(data_args) | {"eval_dataset_name": None}
    for of_fit in ("max_prompt_length", "long_prompts"):  # read by SystemEvaluator.fit
        del shared[of_fit]
    return {label: load_held_out(**shared | {"dataset_name": name}) for label, name in names.items()}


class SystemEvaluator:
    """
    The evaluation of several systems on the same rows: checkpoints, and texts from files.

    All processes must call it: they share the generation, and the main process computes the metrics.

    Args:
        checkpoints (`dict` of `str`):
            Folders or hub ids by label. The first is the reference, and by default the perplexity model.
        outputs (`dict` of `str`):
            Files of texts by label, as [`~lmrl.evaluation.read_outputs`] reads them.
        decoding ([`~lmrl.evaluation.Decoding`]):
            How completions are generated.
        metrics (list of `str` or `dict`):
            Metrics besides the usual ones, as [`~lmrl.rewards.make_rewards`] takes them.
        run ([`RunRecord`], *optional*):
            Run whose rewards are measured too, with their weighted total.
        primary_metrics (list of `str`, *optional*):
            Metrics to test, which must be among those that are measured.
        win_rate (list of `str` or `dict`, *optional*):
            Scores by which win rates are computed, as [`~lmrl.experiment.named.rewards_to_measure`] takes them.
        mbr_metric (`str` or `dict`, *optional*, defaults to `"rougeL"`):
            Similarity by which minimum-Bayes-risk decoding chooses among several samples.
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
        metrics: Sequence[Any],
        *,
        run: RunRecord | None = None,
        primary_metrics: Sequence[str] | None = None,
        win_rate: Sequence[Any] | None = None,
        mbr_metric: Any = "rougeL",
        perplexity_model: str | None,
        **loading: Any,
    ):
        self.checkpoints = checkpoints
        self.outputs = outputs
        self.decoding = decoding
        rewards = [] if run is None else make_rewards(run.settings.get("rewards", {}).get("rewards", []))
        training = {} if run is None else run.settings["training"]
        self.reward_funcs = rewards_to_measure(rewards, metrics, win_rate)
        self.primary_metrics = primary_metrics
        self.win_rate = win_rate
        self.similarity = make_reward(mbr_metric) if decoding.num_samples > 1 else None
        if self.similarity is not None:
            reference_column(self.similarity)  # raises before the generation
        self.reward_weights = weights_by_name(rewards, training.get("reward_weights"))
        self.loading = loading
        with known_as(_CHECKPOINTS):
            self.tokenizers = {label: load_tokenizer(path) for label, path in checkpoints.items()}
            if training.get("visible_tokens"):  # set in the run's tokenizer, not yet in its start model's
                for tokenizer in self.tokenizers.values():
                    show_special_tokens(tokenizer, training["visible_tokens"])
            self.frozen = load_frozen_models(next(iter(checkpoints.values()), None), perplexity_model, **loading)

    def __call__(self, rows: Dataset, folder: Path) -> dict[str, Evaluation]:
        """
        Returns the evaluations of held-out rows by label. The folder keeps completions until
        [`SystemEvaluator.clean_up`], so that a killed evaluation can continue. A `ValueError` if a file of texts does
        not fit the rows, or a primary metric is not measured on them.
        """
        measured = score_names(rows, self.reward_funcs, self.reward_weights)
        check_scores(self.primary_metrics, self.win_rate, measured)
        perplexity_model = self.frozen.perplexity_model
        # Lengths are in tokens of the first checkpoint, whose own are, or else of the only model there is.
        of_perplexity = None if perplexity_model is None else perplexity_model[1]
        tokenizer = next(iter(self.tokenizers.values()), of_perplexity)
        texts = {label: read_outputs(path, rows, tokenizer) for label, path in self.outputs.items()}
        if rank_and_world_size()[0] == 0:
            print_evaluation_banner(self, rows, folder)
        evaluations = {label: self._evaluate(label, rows, folder) for label in self.checkpoints}
        for label, completions in texts.items():
            evaluations[label] = measure_completions(
                completions,
                rows,
                reward_funcs=self.reward_funcs,
                reward_weights=self.reward_weights,
                perplexity_model=perplexity_model,
                length_unit="words" if tokenizer is None else "tokens|eos:included",
                chat_template_kwargs=self.decoding.chat_template_kwargs,
            )
        return evaluations

    def fit(self, rows: Dataset, data_args: Any) -> Dataset:
        """
        Returns held-out rows whose prompts fit `max_prompt_length` and the first checkpoint's context; `data_args`
        ([`~lmrl.arguments.HeldOutArguments`]) determine what happens to longer ones.
        """
        model = self.frozen.reference_model
        if model is None:
            check_unread(data_args, ("long_prompts", "max_prompt_length"), "checkpoints")
            return rows
        room = (context_length(model) or NO_LIMIT) - self.decoding.max_new_tokens
        limit = min(room, data_args.max_prompt_length or room)
        tokenizer = next(iter(self.tokenizers.values()))
        if limit < 1:
            return rows
        return fit_prompts(rows, tokenizer, limit, data_args.long_prompts, self.decoding.chat_template_kwargs)

    def report(
        self,
        evaluations: Mapping[str, Evaluation],
        rows: Dataset,
        folder: Path,
        eval_args: Any,
        compare_args: Any,
        **about: Any,
    ) -> None:
        """
        Prints and writes the report of evaluations; `about` are further arguments of [`~lmrl.evaluation.report`].
        `eval_args` ([`~lmrl.arguments.ScoringArguments`]) have the metrics to test, `compare_args`
        ([`~lmrl.arguments.ComparisonArguments`]) which systems are compared.
        """
        all_pairs = compare_args.compare_with == "all"
        compared = compare_args.baseline_first(evaluations)
        names = names_of_scores(self.win_rate, metrics_of(evaluations))
        compared = with_win_rates(compared, names, all_pairs=all_pairs, tolerance=eval_args.eval_tie_tolerance)
        if self.similarity is not None:
            compared = with_samples(compared, names, self.similarity, threshold=compare_args.eval_pass_threshold)
        report(
            compared,
            rows,
            folder,
            eval_args.eval_num_completions_to_print,
            rewarded=list(self.reward_weights) or None,
            primary=eval_args.primary_metrics,
            all_pairs=all_pairs,
            below=printed_tables(compared),
            **about,
        )

    def clean_up(self, *folders: Path) -> None:
        """Deletes the completions kept in the folders, once all of these have their report."""
        for folder in folders:
            for label in self.checkpoints:
                CompletionStore(folder / "partial", label).remove()

    def _evaluate(self, label: str, rows: Dataset, folder: Path) -> Evaluation:
        """Returns the evaluation of a checkpoint."""
        with known_as(_CHECKPOINTS):
            model = load_model(self.checkpoints[label], **self.loading)
        reference = self.frozen.reference_model
        has_same_tokens = self.tokenizers[label].get_vocab() == next(iter(self.tokenizers.values())).get_vocab()
        comparable = reference is not None and has_same_tokens and _vocab_size(model) == _vocab_size(reference)
        if not comparable and rank_and_world_size()[0] == 0:
            print(f"No kl of {label}: its tokens are not those of {next(iter(self.checkpoints))}.")
        evaluation = evaluate_model(
            model,
            self.tokenizers[label],
            rows,
            self.decoding,
            reward_funcs=self.reward_funcs,
            reward_weights=self.reward_weights,
            perplexity_model=self.frozen.perplexity_model,
            reference_model=reference if comparable else None,
            store=CompletionStore(folder / "partial", label),
        )
        if not has_same_tokens:  # so that a report warns of lengths in other units
            length = evaluation.scores["length"]
            evaluation.scores["length"] = replace(length, signature=f"{length.signature}|tokenizer:{label}")
        return with_trained_rows(evaluation, rows, trained_rows([self.checkpoints[label]]))


def _vocab_size(model: PreTrainedModel) -> int:
    return int(model.config.get_text_config().vocab_size)
