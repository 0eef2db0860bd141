"""Evaluation of a checkpoint: its completions of held-out rows, and their scores."""

import inspect
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeAlias

from lmrl.display.cards import card, rates_marked, values_text
from lmrl.display.wording import counted, direction, number
from lmrl.distributed import on_main
from lmrl.libraries import Dataset, PreTrainedModel, PreTrainedTokenizerBase
from lmrl.rewards import call_reward, reward_name
from lmrl.utils import NOT_PASSED, REWARD_ARGUMENTS, failure_of

from .comparison import score_text
from .generation import Completion, Decoding, decoding_text, end_token_ids, generate_completions
from .likelihood import divergence, perplexity
from .metrics import metric_names, score_completions
from .rows import Row, Rows, checked_rows, row_ids
from .scores import Corpus, Score, length_unit, mean_score, per_prompt
from .store import CompletionStore

# Name of the weighted total of several rewards.
TOTAL_REWARD = "reward"

Reward: TypeAlias = Callable[..., list[float | None]]
ModelAndTokenizer: TypeAlias = tuple[PreTrainedModel, PreTrainedTokenizerBase]


@dataclass(frozen=True)
class Evaluation:
    """
    Completions of a checkpoint with their scores.

    Args:
        completions (list of [`Completion`]):
            The completions, in the order of the rows.
        scores (`dict` of [`Score`]):
            Metrics, rewards (`reward/<name>`) and `perplexity` by name, with one row score per prompt.
        decoding (`dict`):
            The fields of [`Decoding`], and the tokens that end a completion as `eos_tokens`; empty if unknown.
        row_ids (list of `str`):
            Ids of the rows ([`lmrl.evaluation.rows.row_ids`]), to compare with other evaluations of the same rows.
        trained_on (`dict` of lists of `str`, *optional*):
            Ids of the evaluated rows that the checkpoint was trained on, by the run that did it; `None` if unknown.
        tables (`dict` of lists of lists of `str`, *optional*):
            Further tables for the report, by their headings. The first line of each has the names of its columns; a
            line of a single cell is a note below the table.
        numbers (`dict` of lists of `dict`, *optional*):
            The numbers of some of these tables, by the same headings, ready for JSON: `None` in place of NaN.
    """

    completions: list[Completion]
    scores: dict[str, Score]
    decoding: dict[str, Any]
    row_ids: list[str] = field(default_factory=list)
    trained_on: dict[str, list[str]] | None = None
    tables: dict[str, list[list[str]]] = field(default_factory=dict)
    numbers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, float]:
        """The value of each score."""
        return {name: score.value for name, score in self.scores.items()}

    @property
    def num_prompts(self) -> int:
        """Number of prompts that have completions."""
        return len({completion.row for completion in self.completions})

    def __repr__(self) -> str:
        return f"Evaluation({len(self.completions)} completions: {values_text(self.values)})"

    def _repr_html_(self) -> str:
        lines = [["metric", "value [95 % CI]"]]
        for name, score in self.scores.items():
            lines.append([f"{name} {direction(score.higher_is_better)}", score_text(score)])
        shown = [one for one in self.completions if one.sample == 0][:3]
        texts = [(f"row {one.row + 1}", [(one.text.strip(), False)], self._row_text(one)) for one in shown]
        return card(
            "Evaluation",
            lead=" · ".join(filter(None, [counted(self.num_prompts, "row"), decoding_text(self.decoding)])),
            tables={"": lines, **{heading: rates_marked(found) for heading, found in self.tables.items()}},
            samples=[{"prompt": "", "texts": texts}] if texts else [],
        )

    def _row_text(self, completion: Completion) -> str:
        """Returns the rewards of a completion's row and its length."""
        texts = [
            f"{name.removeprefix('reward/')} {number(score.row_scores[completion.row])}"
            for name, score in self.scores.items()
            if name.startswith("reward/") and score.row_scores and completion.row < len(score.row_scores)
        ]
        texts.append(f"{completion.length} {length_unit(self.scores)}")
        return " · ".join(texts if completion.finished else [*texts, "unfinished"])


def evaluate_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Rows,
    decoding: Decoding,
    *,
    reward_funcs: Sequence[Reward] = (),
    reward_weights: Mapping[str, float] | None = None,
    metrics: Sequence[str] | None = None,
    perplexity_model: ModelAndTokenizer | None = None,
    reference_model: "PreTrainedModel | None" = None,
    store: CompletionStore | None = None,
    progress: bool = True,
) -> Evaluation:
    """
    Returns the completions of the rows' prompts with all metrics that apply to them.

    With several samples per prompt, corpus metrics pool all samples, and a row score is the mean over the samples of
    its prompt: prompts are independent of each other, the samples of one prompt are not.

    With several processes in `torch.distributed`, all must call this. They share the generation and the models'
    forward passes over the completions, the main process computes the other metrics, and all return the same.

    Args:
        model (`transformers.PreTrainedModel` or `peft.PeftModel`), tokenizer:
            The checkpoint and its tokenizer.
        rows (`datasets.Dataset` or list of `dict`):
            Rows with `"prompt"` (text or messages) and optionally `"references"` (a list of texts). Reward functions
            get all their columns except `"prompt"`, `"completion"` and those named like their own arguments.
        decoding ([`Decoding`]):
            How completions are generated.
        reward_funcs (list of callables, *optional*, defaults to `()`):
            Reward functions, called as `f(prompts=..., completions=..., **columns)`; each becomes `reward/<name>`.
            Completions of chat prompts are lists of one message, as in TRL.
        reward_weights (`dict` of `float`, *optional*):
            Weights of the rewards trained on, by name. If there are several, their weighted total is `reward`.
        metrics (list of `str`, *optional*):
            Names of metrics, as for [`score_completions`]; its defaults if not given.
        perplexity_model (pair of model and tokenizer, *optional*):
            A frozen model; the score `perplexity` is that of the completions under it.
        reference_model (`transformers.PreTrainedModel`, *optional*):
            The policy that training started from, with the same tokens; adds the scores `kl` and `own_perplexity`.
        store, progress:
            As for [`generate_completions`].

    Raises:
        `ValueError`: if there are no rows, columns are missing in some of them, a metric is unknown, two rewards have
            the same name, or a reward raises or returns another number of values than there are completions.
    """
    taken = checked_rows(rows)
    # Wrong arguments raise before the generation, not after it.
    metric_names(metrics, has_references=taken[0].get("references") is not None)
    rewards_by_name(reward_funcs)
    prompts = [row["prompt"] for row in taken]
    completions = generate_completions(model, tokenizer, prompts, decoding, store=store, progress=progress)
    scores = measure_completions(
        completions,
        taken,
        reward_funcs=reward_funcs,
        reward_weights=reward_weights,
        metrics=metrics,
        perplexity_model=perplexity_model,
        chat_template_kwargs=decoding.chat_template_kwargs,
    ).scores
    if reference_model is not None:
        scores |= divergence(
            model,
            reference_model,
            tokenizer,
            prompts,
            completions,
            batch_size=decoding.batch_size,
            chat_template_kwargs=decoding.chat_template_kwargs,
        )
    scores = {name: per_prompt(score, decoding.num_samples) for name, score in scores.items()}
    ends = tokenizer.convert_ids_to_tokens(end_token_ids(model, tokenizer))
    return Evaluation(completions, scores, {**asdict(decoding), "eos_tokens": ends}, row_ids(taken))


def measure_completions(
    completions: Sequence[Completion],
    rows: Rows,
    *,
    reward_funcs: Sequence[Reward] = (),
    reward_weights: Mapping[str, float] | None = None,
    metrics: Sequence[str] | None = None,
    perplexity_model: ModelAndTokenizer | None = None,
    length_unit: str = "tokens|eos:included",
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> Evaluation:
    """
    Returns the evaluation of existing completions, from a file or another system, with a row score for each.

    With several processes in `torch.distributed`, all must call this.

    Args:
        completions (list of [`Completion`]), rows, reward_funcs, reward_weights, metrics, perplexity_model:
            The completions, in the order of the rows; the other arguments are as for [`evaluate_model`].
        length_unit (`str`, *optional*, defaults to `"tokens|eos:included"`):
            Unit of the lengths: `"words"` if [`read_outputs`] had no tokenizer.
        chat_template_kwargs (`dict`, *optional*):
            Variables of the chat template of the perplexity model, as in [`Decoding`].

    Raises:
        `ValueError`: as for [`evaluate_model`].
    """
    taken = checked_rows(rows)
    expanded = [taken[completion.row] for completion in completions]
    corpus = Corpus(
        texts=[completion.text for completion in completions],
        references=[row["references"] for row in expanded] if taken[0].get("references") is not None else None,
        rows=[completion.row for completion in completions],
        lengths=[completion.length for completion in completions],
        finished=[completion.finished for completion in completions],
        length_unit=length_unit,
    )
    rewards = rewards_by_name(reward_funcs)

    def score_texts() -> dict[str, Score]:
        """Runs on the main process alone."""
        scores = score_completions(corpus, metrics)
        for name, reward in rewards.items():
            scores |= _score_reward(name, reward, expanded, completions)
        if reward_weights and len(reward_weights) > 1:
            return {TOTAL_REWARD: _total_reward(scores, reward_weights), **scores}
        return scores

    scores = on_main(score_texts)
    if perplexity_model is not None:
        prompts = [row["prompt"] for row in taken]
        scores["perplexity"] = perplexity(
            *perplexity_model, prompts, completions, chat_template_kwargs=chat_template_kwargs
        )
    return Evaluation(list(completions), scores, {}, row_ids(taken))


def score_names(
    rows: Dataset,
    reward_funcs: Sequence[Reward],
    reward_weights: Mapping[str, float] | None,
    metrics: Sequence[str] | None = None,
) -> list[str]:
    """Returns the names of the scores of [`measure_completions`] without a model; raises the same errors."""
    total = [TOTAL_REWARD] if len(reward_weights or ()) > 1 else []
    measured = metric_names(metrics, "references" in rows.column_names)
    return [*total, *measured, *(f"reward/{name}" for name in rewards_by_name(reward_funcs))]


def rewards_by_name(rewards: Sequence[Reward]) -> dict[str, Reward]:
    """Returns reward functions by their names. Raises `ValueError` if two have the same."""
    named: dict[str, Reward] = {}
    for reward in rewards:
        name = reward_name(reward)
        if name in named:
            raise ValueError(
                f"`reward_funcs` must have different names, got {name!r} twice. Give one of them another `name` (a "
                "function: another `__name__`). What is trained on is evaluated anyway and need not be named again."
            )
        named[name] = reward
    return named


def _total_reward(scores: Mapping[str, Score], weights: Mapping[str, float]) -> Score:
    """Returns the weighted sum of the rewards of each row, as in training: one that does not apply counts as 0."""
    by_reward = [(weight, scores[f"reward/{name}"].row_scores or []) for name, weight in weights.items()]
    totals: list[float | None] = []
    for values in zip(*(row_scores for _, row_scores in by_reward), strict=True):
        terms = [weight * value for (weight, _), value in zip(by_reward, values, strict=True) if not math.isnan(value)]
        totals.append(sum(terms) if terms else None)
    signature = " + ".join(f"{weight:g} * {name}" for name, weight in weights.items())
    return mean_score(TOTAL_REWARD, signature, totals, higher_is_better=True)


def _score_reward(name: str, reward: Reward, rows: list[Row], completions: Sequence[Completion]) -> dict[str, Score]:
    """Returns the score of a reward, and `logged/<metric>` for each metric that a plain function logs itself."""
    chat = not isinstance(rows[0]["prompt"], str)
    texts = [[{"role": "assistant", "content": c.text}] if chat else c.text for c in completions]
    keys = {key: None for row in rows for key in row if key not in (*NOT_PASSED, *REWARD_ARGUMENTS)}
    columns = {key: [row.get(key) for row in rows] for key in keys}
    inputs = {"prompts": [row["prompt"] for row in rows], "completions": texts, **columns}
    logged: dict[str, list[float]] = defaultdict(list)
    inputs |= _trainer_arguments(reward, logged)
    try:
        values = call_reward(reward, **inputs)
        if infinite := [row for row, value in enumerate(values) if value is not None and math.isinf(value)]:
            got = f"got {values[infinite[0]]} for row {infinite[0]}"
            raise ValueError(f"The reward {name!r} must return finite numbers, None where it does not apply, {got}.")
    except Exception as error:
        subject = f"The reward {name!r}"
        is_named = str(error).startswith(subject)  # it returned wrong values, or a column is missing
        raise ValueError(str(error) if is_named else f"{subject} {failure_of(error, inputs)}") from error
    score = mean_score(f"reward/{name}", str(getattr(reward, "signature", name)), values, higher_is_better=True)
    if hasattr(reward, "corpus_value"):
        # A module of `evaluate` is a corpus metric: its value for all rows is not the mean of its values for each row.
        value = reward.corpus_value([completion.text for completion in completions], columns)
        score = replace(score, value=value, pooling=None, statistics=None)
    means = {f"logged/{metric}": math.fsum(numbers) / len(numbers) for metric, numbers in logged.items()}
    further = {metric: Score(metric, mean, f"logged by {name}", None, None) for metric, mean in means.items()}
    return {score.name: score, **further}


def _trainer_arguments(reward: Reward, logged: dict[str, list[float]]) -> dict[str, Any]:
    """
    Returns those arguments that TRL passes besides the data, as far as the function takes them. Without a trainer and
    a table of completions, `trainer_state` is `None`, and values passed to `log_extra` are not shown.
    """
    if hasattr(reward, "columns"):  # a reward of lmrl, which needs only rows
        return {}
    arguments = {
        "trainer_state": None,
        "log_metric": lambda metric, value: logged[metric].append(float(value)),
        "log_extra": lambda column, values: None,
    }
    parameters = inspect.signature(reward).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return {name: value for name, value in arguments.items() if takes_all or name in parameters}
