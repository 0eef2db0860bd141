"""Sanity checks run before the first optimizer step."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.logging import get_logger
from accelerate.utils import is_peft_model
from datasets import Dataset
from torch import Tensor

from lmrl import core
from lmrl.models import base_of, context_length
from lmrl.utils import NOT_PASSED, RESERVED_COLUMNS, check_prompts, missing_columns, tokenize_prompt

from .rewards import CheckedReward

logger = get_logger(__name__)

MAX_CHECKED_PROMPTS = 100_000
CHECKED_ROWS = 8  # of a rollout, for the checks that cost a forward pass

# Largest difference between two passes of the same policy, of one token's log-probability, and of the mean over all
# tokens. Numbers of 16 bits have two or three digits: there rounding alone makes the mean 0.005.
TOLERANCES = (1e-3, 1e-3)
TOLERANCES_IN_16_BITS = (0.5, 0.02)


def check_policy(model: Any) -> None:
    """Raises a `ValueError` for a policy that is loaded already and is no causal language model; a name passes."""
    loaded = base_of(model)
    generates = hasattr(loaded, "can_generate") and loaded.can_generate()
    if not isinstance(model, str | Path) and (not generates or loaded.config.is_encoder_decoder):
        raise ValueError(
            f"`model` must be a causal language model, got a {type(loaded).__name__}. Give the model that writes the "
            "texts, by its name or from AutoModelForCausalLM, not a classifier or a reward model of them."
        )


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
            missing = missing_columns(reward.reward_func, columns)
            if kept := [column for column in missing if column in NOT_PASSED]:
                raise ValueError(
                    f"The reward {reward.__name__!r} must read another column than {kept[0]!r}, which TRL does not "
                    "pass on under this name. Prompts are `prompts`, sampled texts `completions`: rename the column."
                )
            if missing:
                others = "`remove_unused_columns` removes the others. " if remove_unused else ""
                raise ValueError(
                    f"`{name}` must have the column {missing[0]!r}, which the reward {reward.__name__!r} reads, got "
                    f"only {columns}. {others}Rename the column, or configure the reward to read another."
                )


def _columns(dataset: Any, remove_unused: Any) -> list[str]:
    """Returns the columns of a row as it is read, after transforms of the dataset; none if they are not known."""
    columns = list(getattr(dataset, "column_names", None) or [])
    if remove_unused:
        return [name for name in columns if name == "prompt"] or columns
    return list(dataset[0]) if isinstance(dataset, Dataset) and len(dataset) > 0 else columns


def check_rows(
    sets: Mapping[str, Any], tokenizer: Any, model: Any, reference: Any, eos_token_ids: list[Any], args: Any
) -> Callable[..., None]:
    """
    Checks that completions can end, that there are prompts enough for one rollout, and the prompts of each set, by its
    name. Returns [`~lmrl.utils.check_prompts`] as a function of a set's name and token ids, with which the prompts of
    a stream are checked as they are read.
    """
    vocabulary = model.config.get_text_config().vocab_size
    if outside := [token for token in eos_token_ids if token is None or token >= vocabulary]:
        raise ValueError(
            f"The EOS id must be in the model's vocabulary of {vocabulary}, got {outside[0]}. No completion could "
            "ever end: the tokenizer does not belong to this model."
        )
    limits = {"model": context_length(model), "reference": None if reference is None else context_length(reference)}
    check = partial(check_prompts, new_tokens=args.max_completion_length, limits=limits, vocabulary=vocabulary)
    needed = args.generation_batch_size // args.num_generations
    for name, dataset in sets.items():
        if not isinstance(dataset, Dataset):
            continue
        if name == "train_dataset" and len(dataset) < needed:
            raise ValueError(
                f"`train_dataset` must have at least {needed} rows, got {len(dataset)}. One rollout takes {needed} "
                f"prompts ({args.generation_batch_size} completions, {args.num_generations} of each prompt), and "
                "nothing would be trained: give more rows, or lower `per_device_train_batch_size`."
            )
        if not len(dataset):
            raise ValueError(f"`{name}` must have at least 1 row, got 0. Leave it out, or give some.")
        prompts = list(dataset[: min(len(dataset), MAX_CHECKED_PROMPTS)]["prompt"])
        if None in prompts:
            raise ValueError(f"Row {prompts.index(None)} of {name} has no prompt. Fill it in, or drop the row.")
        options = args.chat_template_kwargs or {}
        if isinstance(prompts[0], str) and not options:
            prompt_ids = tokenizer(text=prompts)["input_ids"]
        else:
            prompt_ids = [tokenize_prompt(tokenizer, prompt, row, **options) for row, prompt in enumerate(prompts)]
        check(name, prompt_ids)
    return check


def check_first_rollout(
    rollout: Any, model: Any, scorer: Any, reference: Any, eos_token_ids: list[int], args: Any
) -> None:
    """
    Checks the first rollout, with the policy in its engine: rewards that differ, completions that end, a ratio of 1
    and a KL of 0. Otherwise training could learn nothing, or would train another policy than the one that samples.

    The [`~lmrl.trainers.Rollout`] has the rewards. The scorer's `forward(model, rollout)` gives log-probabilities, and
    it has the `accelerator`; the reference's `running(model)` gives the model that is the reference, if there is one.
    """
    gather = scorer.accelerator.gather
    rewards = gather(rollout.rewards)
    scored = rewards[~rewards.isnan()]
    if len(scored) == 0:
        raise ValueError(
            "No reward applied to any completion of the first rollout: every one returned None. Return a number for "
            "some of them, or look at the completions (`log_completions`)."
        )
    are_equal = len(rewards) > 1 and scored.max() == scored.min()
    if are_equal and _distils(args):
        logger.warning(
            f"All {len(scored)} completions of the first rollout got the reward {scored[0].item():g}: what is learned "
            "comes from the KL to the reference alone."
        )
    elif are_equal:
        raise ValueError(
            f"All {len(scored)} completions of the first rollout got the reward {scored[0].item():g}, so there is "
            "nothing to learn. Look at the completions (`log_completions`), take a reward that differs between them, "
            "or set `startup_checks=False` if a constant reward is what you want."
        )
    ended = gather(core.ended(rollout.completion_ids, rollout.completion_mask, eos_token_ids))
    if not ended.any():
        logger.warning(
            f"None of the first {len(ended)} completions ended within max_completion_length="
            f"{args.max_completion_length} tokens. If completions should end, raise it, or warm the model up on texts "
            "that do."
        )

    policy = scorer.accelerator.unwrap_model(model)
    rows = next(rollout.split(min(CHECKED_ROWS, args.per_device_train_batch_size)))
    tolerances = TOLERANCES_IN_16_BITS if args.bf16 or args.fp16 else TOLERANCES
    with torch.no_grad():
        in_training = scorer.forward(model, rows).log_probs
        policy.eval()
        in_evaluation = scorer.forward(model, rows).log_probs
        policy.train()
    remedy = (
        "Something is random in its forward. If it is dropout, leave disable_dropout=True, and set lora_dropout to 0. "
        "A router that draws experts in training mode (PhiMoE, or `router_jitter_noise` above 0) cannot be trained."
    )
    if getattr(policy, "is_loaded_in_8bit", False):
        remedy = "Weights in 8 bits are multiplied in another way in training: load the model in 4 bits."
    mask = rows.completion_mask
    sampled = "in training mode differs from the policy that was sampled"
    _check_same(in_training, in_evaluation, mask, tolerances, sampled, f"so the ratio is not 1. {remedy}")
    if rows.ref_log_probs is not None and args.reference_model_name_or_path is None and _starts_at_reference(policy):
        # Of the same rows: in 16 bits, those that share a batch change the rounding.
        with torch.no_grad(), reference.running(model) as frozen:
            of_reference = scorer.forward(frozen, rows).log_probs
        remedy = "so the KL does not start at 0. Load both from the same weights, in the same precision."
        _check_same(in_evaluation, of_reference, mask, tolerances, "differs from its reference", remedy)


def _distils(args: Any) -> bool:
    """Returns whether a named reference teaches each token, in every prompt, whatever the rewards are."""
    has_teacher = args.reference_model_name_or_path is not None
    return has_teacher and args.kl_scope == "token" and not getattr(args, "drop_equal_groups", False)


def _starts_at_reference(model: Any) -> bool:
    """
    Returns whether a policy before its first update, out of its engine, is the same as its own reference. An adapter
    that does not start at zero differs from its base; one trained further has TRL's copy of it, `ref`, as reference.
    """
    if not is_peft_model(model) or "ref" in model.peft_config:
        return True
    inits = [getattr(config, "init_lora_weights", False) for config in model.peft_config.values()]
    return all(init not in (False, "loftq", "orthogonal") for init in inits)


def _check_same(
    log_probs: Tensor, others: Tensor, mask: Tensor, tolerances: tuple[float, float], differs: str, remedy: str
) -> None:
    """Checks that neither the largest difference of a token nor the mean of all is above its tolerance."""
    differences = ((log_probs - others) * mask).abs()
    tolerance, mean_tolerance = tolerances
    if not (differences.max() <= tolerance and differences.sum() <= mean_tolerance * mask.sum()):
        raise ValueError(
            f"Before any update the policy {differs} by {differences.max().item():.3g} in a token's log-probability, "
            f"{remedy}"
        )
