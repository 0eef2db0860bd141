"""Sanity checks run before the first optimizer step."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate.logging import get_logger
from datasets import IterableDataset
from torch import Tensor
from transformers import PreTrainedModel

from lmrl import core
from lmrl.models import context_length
from lmrl.utils import RESERVED_COLUMNS, check_token_ids, tokenize_prompt

from .configs import PolicyGradientConfig
from .policies import starts_at_reference
from .reward_checks import CheckedReward, missing_columns
from .rollout import Rollout
from .scorer import Scorer

logger = get_logger(__name__)

MAX_CHECKED_PROMPTS = 100_000
CHECKED_ROWS = 8  # of a rollout, for the checks that cost a forward pass

# How far the same policy may be from itself in a token's log-probability: 16 bits have two or three digits.
TOLERANCE = 1e-3
TOLERANCE_IN_16_BITS = 0.5
MEAN_TOLERANCE_IN_16_BITS = 0.02  # the mean over tokens; of rounding alone it is 0.005


def check_columns(rewards: Sequence[CheckedReward], train_dataset: Any, eval_dataset: Any) -> None:
    """Raises a `ValueError` if the prompts or a column of a reward are missing, or a column has a reserved name."""
    eval_datasets = eval_dataset if isinstance(eval_dataset, dict) else {"eval_dataset": eval_dataset}
    for name, dataset in {"train_dataset": train_dataset, **eval_datasets}.items():
        if not (columns := getattr(dataset, "column_names", None)):
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
            if missing := missing_columns(reward, columns):
                raise ValueError(
                    f"`{name}` must have the column {missing[0]!r}, which the reward {reward.__name__!r} reads, got "
                    f"only {columns}. Rename the column, or configure the reward to read another."
                )


def check_rows(
    dataset: Any, tokenizer: Any, args: PolicyGradientConfig, models: Mapping[str, PreTrainedModel]
) -> None:
    """
    Checks that there are prompts enough for one rollout, that each has tokens, and that the longest one fits the
    context of all models, named by what they are, together with the longest completion. A stream is not checked.

    Raises:
        ValueError: If there are too few prompts, or one is missing, empty or too long.
    """
    if isinstance(dataset, IterableDataset):
        return
    needed = args.generation_batch_size // args.num_generations
    if len(dataset) < needed:
        raise ValueError(
            f"`train_dataset` must have at least {needed} rows, got {len(dataset)}. One rollout takes {needed} "
            f"prompts ({args.generation_batch_size} completions, {args.num_generations} of each prompt), and nothing "
            "would be trained: give more rows, or lower `per_device_train_batch_size`."
        )
    prompts = list(dataset[: min(len(dataset), MAX_CHECKED_PROMPTS)]["prompt"])
    if None in prompts:
        raise ValueError(f"Row {prompts.index(None)} of train_dataset has no prompt. Fill it in, or drop the row.")
    if isinstance(prompts[0], str):
        prompt_ids = tokenizer(text=prompts)["input_ids"]
    else:
        options = args.chat_template_kwargs or {}
        prompt_ids = [tokenize_prompt(tokenizer, prompt, row, **options) for row, prompt in enumerate(prompts)]
    lengths = list(map(len, prompt_ids))
    if 0 in lengths:
        raise ValueError(f"Row {lengths.index(0)} of train_dataset has an empty prompt. Give it at least one token.")
    contexts = {name: context_length(model) for name, model in models.items()}
    _check_context(lengths, args.max_completion_length, contexts)
    check_token_ids(prompt_ids, models["model"].config.get_text_config().vocab_size)


def _check_context(lengths: list[int], max_completion_length: int, contexts: Mapping[str, int | None]) -> None:
    limits = {name: limit for name, limit in contexts.items() if limit is not None}
    if not limits:
        return
    name = min(limits, key=lambda name: limits[name])
    longest = max(lengths)
    needed = longest + max_completion_length
    if needed > limits[name]:
        raise ValueError(
            f"`max_completion_length` must be at most {max(limits[name] - longest, 1)}, got {max_completion_length}. "
            f"The prompt of row {lengths.index(longest)} has {longest} tokens, which makes {needed}, more than the "
            f"{name}'s context of {limits[name]}. Lower it, or drop or cut long prompts (lmrl.data.fit_prompts)."
        )


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
    _check_ratio(in_training, in_evaluation, rows.completion_mask, *tolerances)
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


def _check_ratio(in_training: Tensor, in_evaluation: Tensor, mask: Tensor, *tolerances: float) -> None:
    if difference := _excess(in_training, in_evaluation, mask, *tolerances):
        raise ValueError(
            f"Before any update the policy in training mode differs from the policy that was sampled by "
            f"{difference:.3g} in a token's log-probability, so the ratio is not 1. Something is random in its "
            "forward. If it is dropout, leave disable_dropout=True, and set lora_dropout to 0. A router that draws "
            "experts in training mode (PhiMoE, or `router_jitter_noise` above 0) cannot be trained."
        )


def _check_initial_kl(log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor, *tolerances: float) -> None:
    if difference := _excess(log_probs, ref_log_probs, mask, *tolerances):
        raise ValueError(
            f"Before any update the policy differs from its reference by {difference:.3g} in a token's "
            "log-probability, so the KL does not start at 0. Load both from the same weights, in the same precision."
        )
