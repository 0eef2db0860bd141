"""The measurement of one checkpoint: generate, score, and say how."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from .generation import Completion, generate_completions
from .metrics import Score, mean_score, score_completions
from .perplexity import perplexity

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Reward: TypeAlias = Callable[..., list[float | None]]
Row: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """
    What was measured of a checkpoint.

    Args:
        completions (list of [`Completion`]):
            The texts, in the order of the rows.
        scores (`dict` of [`Score`]):
            Metrics, rewards (`reward/<name>`) and `perplexity` by name, with one row score per prompt.
        decoding (`dict`):
            How the texts were decoded.
    """

    completions: list[Completion]
    scores: dict[str, Score]
    decoding: dict[str, Any]


def evaluate_model(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    rows: "Dataset | Sequence[Row]",
    *,
    max_new_tokens: int,
    do_sample: bool = False,
    num_beams: int = 1,
    temperature: float = 1.0,
    top_p: float = 1.0,
    num_samples: int = 1,
    batch_size: int = 32,
    rewards: Sequence[Reward] = (),
    perplexity_model: "tuple[PreTrainedModel, PreTrainedTokenizerBase] | PreTrainedModel | None" = None,
    max_rows: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Evaluation:
    """
    Returns the completions of the rows' prompts with all metrics that apply to them.

    With several samples per prompt, corpus metrics pool all samples, and a row score is the mean over the samples of
    its prompt: the samples of one prompt are not independent of each other, prompts are.

    Args:
        model (`transformers.PreTrainedModel` or `peft.PeftModel`):
            The checkpoint.
        tokenizer (`transformers.PreTrainedTokenizerBase`):
            Its tokenizer.
        rows (`datasets.Dataset` or list of `dict`):
            Rows with `"prompt"` (text or messages) and, if there are some, `"references"` (a list of texts). Rewards
            see all their columns but `"prompt"`, `"completion"` and `"completion_ids"`, as in TRL.
        max_new_tokens (`int`):
            Longest completion in tokens.
        do_sample (`bool`, *optional*, defaults to `False`):
            Sample; otherwise decode greedily, or by beams.
        num_beams (`int`, *optional*, defaults to `1`):
            Number of beams; 1 is no beam search.
        temperature (`float`, *optional*, defaults to `1.0`):
            Temperature of the sampling.
        top_p (`float`, *optional*, defaults to `1.0`):
            Probability mass that sampling keeps.
        num_samples (`int`, *optional*, defaults to `1`):
            Completions per prompt; more than one needs `do_sample`.
        batch_size (`int`, *optional*, defaults to `32`):
            Prompts per batch.
        rewards (list of callables, *optional*, defaults to `()`):
            Reward functions, called as `f(prompts=..., completions=..., **columns)`; each becomes `reward/<name>`.
            Completions of chat prompts are lists of one message, as in TRL.
        perplexity_model (`transformers.PreTrainedModel` or a pair of model and tokenizer, *optional*):
            A frozen model that judges how likely the completions are; alone, it is taken to share `tokenizer`.
        max_rows (`int`, *optional*):
            Only the first rows.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the sampling.
        progress (`bool`, *optional*, defaults to `True`):
            Show a progress bar.

    Returns:
        [`Evaluation`].

    Raises:
        `ValueError`: if there are no rows, columns are missing in some of them, two rewards have the same name, or a
            reward returns another number of values than there are completions.
    """
    decoding: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "do_sample": do_sample,
        "num_beams": num_beams,
        "temperature": temperature,
        "top_p": top_p,
        "num_samples": num_samples,
        "batch_size": batch_size,
        "seed": seed,
    }
    taken = _take_rows(rows, max_rows)
    named = _name_rewards(rewards)
    prompts = [row["prompt"] for row in taken]
    completions = generate_completions(model, tokenizer, prompts, progress=progress, **decoding)
    expanded = [taken[completion.row] for completion in completions]
    scores = score_completions(
        [completion.text for completion in completions],
        [row["references"] for row in expanded] if taken[0].get("references") is not None else None,
        lengths=[completion.length for completion in completions],
        finished=[completion.finished for completion in completions],
    )
    for name, reward in named.items():
        scores[f"reward/{name}"] = _score_reward(name, reward, expanded, completions)
    if perplexity_model is not None:
        judge, reader = perplexity_model if isinstance(perplexity_model, tuple) else (perplexity_model, tokenizer)
        scores["perplexity"] = perplexity(judge, reader, prompts, completions, batch_size=batch_size)
    return Evaluation(completions, {k: _per_prompt(v, num_samples) for k, v in scores.items()}, decoding)


def _take_rows(rows: "Dataset | Sequence[Row]", max_rows: int | None) -> list[Row]:
    if max_rows is not None and max_rows < 1:
        raise ValueError(f"max_rows is {max_rows}, but must be at least 1, or None for all rows.")
    taken: list[Row] = [rows[i] for i in range(len(rows) if max_rows is None else min(max_rows, len(rows)))]
    if not taken:
        raise ValueError("There are 0 rows to evaluate, but at least 1 is needed. Check the split and its filters.")
    for index, row in enumerate(taken):
        if "prompt" not in row:
            raise ValueError(f'Row {index} has the columns {sorted(row)}, but needs "prompt". Rename the column.')
        if (row.get("references") is None) != (taken[0].get("references") is None):
            raise ValueError(
                f'Rows 0 and {index} differ: one has "references", the other has none. Give them to all rows or none.'
            )
    return taken


def _name_rewards(rewards: Sequence[Reward]) -> dict[str, Reward]:
    named: dict[str, Reward] = {}
    for reward in rewards:
        name = str(getattr(reward, "__name__", type(reward).__name__))
        if name in named:
            raise ValueError(
                f"Two rewards are named {name!r}, but names must differ. Give one of them another `name` "
                "(a function: another __name__); what is rewarded is measured already and need not be a metric too."
            )
        named[name] = reward
    return named


def _score_reward(name: str, reward: Reward, rows: list[Row], completions: list[Completion]) -> Score:
    chat = not isinstance(rows[0]["prompt"], str)
    texts = [[{"role": "assistant", "content": c.text}] if chat else c.text for c in completions]
    keys = {key: None for row in rows for key in row if key not in ("prompt", "completion", "completion_ids")}
    columns = {key: [row.get(key) for row in rows] for key in keys}
    values = reward(prompts=[row["prompt"] for row in rows], completions=texts, **columns)
    if len(values) != len(completions):
        raise ValueError(
            f"The reward {name!r} returned {len(values)} values for {len(completions)} completions, but must "
            "return one each, None where it does not apply."
        )
    return mean_score(f"reward/{name}", str(getattr(reward, "signature", name)), values, higher_is_better=True)


def _per_prompt(score: Score, num_samples: int) -> Score:
    if score.row_scores is None or num_samples == 1:
        return score
    groups = [score.row_scores[i : i + num_samples] for i in range(0, len(score.row_scores), num_samples)]
    return replace(score, row_scores=[mean_score("", "", group, None).value for group in groups])
