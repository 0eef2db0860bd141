"""Sanity checks run before the first optimizer step."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from accelerate.logging import get_logger
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

from lmrl import core
from lmrl.models import context_length
from lmrl.utils import RESERVED_COLUMNS, check_prompts, missing_columns, tokenize_prompt

from .configs import PolicyGradientConfig
from .policies import starts_at_reference
from .reward_checks import CheckedReward
from .rollout import Rollout
from .scorer import Scorer

logger = get_logger(__name__)

MAX_CHECKED_PROMPTS = 100_000
CHECKED_ROWS = 8  # of a rollout, for the checks that cost a forward pass

# How far the same policy may be from itself in a token's log-probability: 16 bits have two or three digits.
TOLERANCE = 1e-3
TOLERANCE_IN_16_BITS = 0.5
MEAN_TOLERANCE_IN_16_BITS = 0.02  # the mean over tokens; of rounding alone it is 0.005


def check_columns(rewards: Sequence[CheckedReward], datasets: Mapping[str, Any], remove_unused: Any) -> None:
    """Raises a `ValueError` if the prompts or a column of a reward are missing, or a column has a reserved name."""
    for name, dataset in datasets.items():
        if not (columns := _columns(dataset, remove_unused)):
            continue
        if "prompt" not in columns:
            raise ValueError(
                f"`{name}` must have a column 'prompt', got only {columns}. lmrl.data.load_prompts makes one."
            )
        if reserved := [column for column in columns if column in RESERVED_COLUMNS]:
            raise ValueError(
                f"`{name}` must not have a column {reserved[0]!r}, which TRL takes for something else. Rename it."
            )
        for reward in rewards:
            if missing := missing_columns(reward.reward_func, columns):
                others = "`remove_unused_columns` removes the others. " if remove_unused else ""
                raise ValueError(
                    f"`{name}` must have the column {missing[0]!r}, which the reward {reward.__name__!r} reads, got "
                    f"only {columns}. {others}Rename the column, or configure the reward to read another."
                )


def _columns(dataset: Any, remove_unused: Any) -> list[str]:
    """Returns the columns that a row has when it is read, which a transform may make; none if they are not known."""
    columns = list(getattr(dataset, "column_names", None) or [])
    if remove_unused:
        return [name for name in columns if name == "prompt"] or columns
    return list(dataset[0]) if isinstance(dataset, Dataset) and len(dataset) > 0 else columns


def prompt_check(model: PreTrainedModel, reference: PreTrainedModel | None, args: PolicyGradientConfig) -> Any:
    """Returns [`~lmrl.utils.check_prompts`] as a function of the name of a set and of the token ids of its prompts."""
    limits = {"model": context_length(model), "reference": None if reference is None else context_length(reference)}
    vocabulary = model.config.get_text_config().vocab_size
    return partial(check_prompts, new_tokens=args.max_completion_length, limits=limits, vocabulary=vocabulary)


def check_rows(
    datasets: Mapping[str, Any], tokenizer: Any, args: PolicyGradientConfig, check: Callable[[str, Any], None]
) -> None:
    """
    Checks that there are prompts enough for one rollout, and those of each set, by its name, with a function of name
    and token ids. Those of a stream are checked as they are read.

    Raises:
        ValueError: If there are too few prompts, or one is missing, empty or too long.
    """
    needed = args.generation_batch_size // args.num_generations
    for name, dataset in datasets.items():
        if not isinstance(dataset, Dataset):
            continue
        if name == "train_dataset" and len(dataset) < needed:
            raise ValueError(
                f"`train_dataset` must have at least {needed} rows, got {len(dataset)}. One rollout takes {needed} "
                f"prompts ({args.generation_batch_size} completions, {args.num_generations} of each prompt), and "
                "nothing would be trained: give more rows, or lower `per_device_train_batch_size`."
            )
        prompts = list(dataset[: min(len(dataset), MAX_CHECKED_PROMPTS)]["prompt"])
        if None in prompts:
            raise ValueError(f"Row {prompts.index(None)} of {name} has no prompt. Fill it in, or drop the row.")
        if isinstance(prompts[0], str):
            prompt_ids = tokenizer(text=prompts)["input_ids"]
        else:
            options = args.chat_template_kwargs or {}
            prompt_ids = [tokenize_prompt(tokenizer, prompt, row, **options) for row, prompt in enumerate(prompts)]
        check(name, prompt_ids)


@torch.no_grad()
def check_padding(model: PreTrainedModel) -> None:
    """
    Checks that padding on the left of a prompt leaves the log-probabilities of a policy with the scoring forward.

    Raises:
        ValueError: If it changes them, as where a recurrent state reads the padding, or positions count it.
    """
    was_training = model.training
    model.eval()
    ids = torch.arange(1, 6, device=model.device)[None] % model.config.get_text_config().vocab_size
    padding = torch.zeros_like(ids)
    mask = torch.ones_like(ids)
    alone = model(input_ids=ids, attention_mask=mask, completion_length=2).log_probs
    padded = model(
        input_ids=torch.cat([padding, ids], dim=1),
        attention_mask=torch.cat([padding, mask], dim=1),
        completion_length=2,
    ).log_probs
    model.train(was_training)
    difference = (alone - padded).abs().max().item()
    if difference > (TOLERANCE if model.dtype == torch.float32 else TOLERANCE_IN_16_BITS):
        raise ValueError(
            f"Padding on the left of a prompt must not change the policy's log-probabilities, got a difference of "
            f"{difference:.3g} for {type(model).__name__}: what it computes of a prompt would depend on the others in "
            "the batch. Take another architecture, or, if all prompts have the same length, set "
            "`startup_checks=False`."
        )


def check_first_rollout(
    rollout: Rollout, model: Any, scorer: Scorer, eos_token_ids: list[int], args: PolicyGradientConfig
) -> None:
    """
    Checks the first rollout of this process, from the policy in its engine: rewards that differ, completions that end,
    a ratio of 1 and a KL of 0.

    Raises:
        ValueError: If training could learn nothing, or would not train the policy that is sampled.
    """
    policy = scorer.accelerator.unwrap_model(model)
    gather = scorer.accelerator.gather
    _check_rewards_differ(gather(rollout.rewards))
    has_ended = core.ended(rollout.completion_ids, rollout.completion_mask, eos_token_ids)
    _warn_if_none_ended(gather(has_ended), args.max_completion_length)

    few = slice(0, min(CHECKED_ROWS, args.per_device_train_batch_size))
    rows = rollout.map(lambda tensor: tensor[few])
    tolerances = (
        (TOLERANCE_IN_16_BITS, MEAN_TOLERANCE_IN_16_BITS) if args.bf16 or args.fp16 else (TOLERANCE, TOLERANCE)
    )
    with torch.no_grad():
        in_training = scorer.forward(model, rows).log_probs
        policy.eval()
        in_evaluation = scorer.forward(model, rows).log_probs
        policy.train()
    _check_ratio(policy, in_training, in_evaluation, rows.completion_mask, *tolerances)
    if rows.ref_log_probs is not None and args.reference_model_name_or_path is None and starts_at_reference(policy):
        _check_initial_kl(in_evaluation, rows.ref_log_probs, rows.completion_mask, *tolerances)


def _check_rewards_differ(rewards: Tensor) -> None:
    scored = rewards[~rewards.isnan()]
    if len(scored) == 0:
        raise ValueError("No reward applied to any completion of the first rollout: every one returned None.")
    if len(rewards) > 1 and scored.max() == scored.min():
        raise ValueError(
            f"All {len(scored)} completions of the first rollout got the reward {scored[0].item():g}, so there is "
            "nothing to learn. Look at the completions (`log_completions`), take a reward that differs between them, "
            "or set `startup_checks=False` if a constant reward is what you want."
        )


def check_eos(eos_token_ids: Sequence[int | None], vocabulary: int) -> None:
    """Raises a `ValueError` if no completion could end."""
    if outside := [token for token in eos_token_ids if token is None or token >= vocabulary]:
        raise ValueError(
            f"The EOS id must be in the model's vocabulary of {vocabulary}, got {outside[0]}. No completion could "
            "ever end: the tokenizer does not belong to this model."
        )


def _warn_if_none_ended(ended: Tensor, max_completion_length: int) -> None:
    if not ended.any():
        logger.warning(
            f"None of the first {len(ended)} completions ended within max_completion_length={max_completion_length} "
            "tokens. If completions should end, raise it, or warm the model up on texts that do."
        )


def _excess(log_probs: Tensor, others: Tensor, mask: Tensor, tolerance: float, mean_tolerance: float) -> float:
    """Returns the largest difference of a token if it, or the mean of all, is above its tolerance; else 0."""
    differences = ((log_probs - others) * mask).abs()
    is_close = differences.max() <= tolerance and differences.sum() <= mean_tolerance * mask.sum()
    return 0.0 if is_close else differences.max().item()


def _check_ratio(policy: Any, in_training: Tensor, in_evaluation: Tensor, mask: Tensor, *tolerances: float) -> None:
    remedy = (
        "Something is random in its forward. If it is dropout, leave disable_dropout=True, and set lora_dropout to 0. "
        "A router that draws experts in training mode (PhiMoE, or `router_jitter_noise` above 0) cannot be trained."
    )
    if getattr(policy, "is_loaded_in_8bit", False):
        remedy = "Weights in 8 bits are multiplied in another way in training: load the model in 4 bits."
    if difference := _excess(in_training, in_evaluation, mask, *tolerances):
        raise ValueError(
            f"Before any update the policy in training mode differs from the policy that was sampled by "
            f"{difference:.3g} in a token's log-probability, so the ratio is not 1. {remedy}"
        )


def _check_initial_kl(log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor, *tolerances: float) -> None:
    if difference := _excess(log_probs, ref_log_probs, mask, *tolerances):
        raise ValueError(
            f"Before any update the policy differs from its reference by {difference:.3g} in a token's "
            "log-probability, so the KL does not start at 0. Load both from the same weights, in the same precision."
        )
