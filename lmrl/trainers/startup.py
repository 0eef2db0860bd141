"""What is checked before the first update: it is cheaper to be told now than after a night of training."""

from typing import TYPE_CHECKING, Any

import torch
from accelerate.logging import get_logger
from accelerate.utils import is_peft_model
from datasets import IterableDataset
from torch import Tensor

from lmrl.models import context_length

from .scoring import CheckedReward, missing_columns

if TYPE_CHECKING:
    from .rollout import PolicyGradientTrainer


logger = get_logger(__name__)

_MAX_CHECKED_PROMPTS = 100_000
_ROWS = 8


def check_columns(rewards: list[CheckedReward], train_dataset: Any, eval_dataset: Any) -> None:
    """
    Check that every column which a reward reads is there.

    Raises:
        ValueError: If the prompts or a column are missing.
    """
    evals = eval_dataset if isinstance(eval_dataset, dict) else {"eval_dataset": eval_dataset}
    for name, dataset in {"train_dataset": train_dataset, **evals}.items():
        columns = getattr(dataset, "column_names", None)
        if not columns:
            continue
        if "prompt" not in columns:
            raise ValueError(f"{name} has no column 'prompt', only {columns}. lmrl.data.load_prompts makes one.")
        for reward in rewards:
            if missing := missing_columns(reward, columns):
                raise ValueError(
                    f"The reward {reward.__name__!r} reads the column {missing[0]!r}, and {name} has only {columns}. "
                    "Rename the column, or tell the reward which one to read."
                )


def check_context(trainer: "PolicyGradientTrainer") -> None:
    """
    Check that every prompt and the longest completion fit the model's context together.

    Raises:
        ValueError: If the dataset is empty, or a prompt is empty or too long.
    """
    dataset = trainer.train_dataset
    if isinstance(dataset, IterableDataset):
        return
    needed = trainer.args.generation_batch_size // trainer.num_generations
    if len(dataset) < needed:
        raise ValueError(
            f"train_dataset has {len(dataset)} rows, and one rollout takes {needed} prompts "
            f"({trainer.args.generation_batch_size} completions, {trainer.num_generations} of each prompt): nothing "
            "would be trained. Give more rows, or lower per_device_train_batch_size."
        )
    reference = None if trainer.ref_model is None else trainer.accelerator.unwrap_model(trainer.ref_model)
    limits = [context_length(model) for model in (trainer._base_model, reference) if model is not None]
    context = min((limit for limit in limits if limit is not None), default=None)
    prompts = list(dataset[: min(len(dataset), _MAX_CHECKED_PROMPTS)]["prompt"])
    if None in prompts:
        raise ValueError(f"Row {prompts.index(None)} of train_dataset has no prompt. Fill it in, or drop the row.")
    lengths = [len(ids) for ids in trainer._tokenize_prompts(prompts)[0]]
    shortest, longest = min(lengths), max(lengths)
    if shortest == 0:
        raise ValueError(f"Row {lengths.index(0)} of train_dataset has an empty prompt. Give it at least one token.")
    room = trainer.max_completion_length
    if context is not None and longest + room > context:
        whose = "model's" if context == limits[0] else "reference's"
        raise ValueError(
            f"The prompt of row {lengths.index(longest)} has {longest} tokens, and with max_completion_length={room} "
            f"that makes {longest + room}, more than the {whose} context of {context}. Lower max_completion_length to "
            f"{max(context - longest, 1)}, or drop or cut long prompts (lmrl.data.fit_prompts)."
        )


@torch.no_grad()
def check_rollout(trainer: "PolicyGradientTrainer", rollout: dict[str, Tensor]) -> None:
    """
    Check the first rollout: rewards that differ, answers that end, a ratio of 1 and a KL of 0.

    Raises:
        ValueError: If training could learn nothing, or would not train the policy that is sampled.
    """
    if not trainer.args.startup_checks:
        return
    _check_spread(trainer, rollout)
    _check_endings(trainer, rollout)
    _check_policy(trainer, rollout)


def _check_spread(trainer: "PolicyGradientTrainer", rollout: dict[str, Tensor]) -> None:
    rewards = trainer.accelerator.gather(rollout["rewards"])
    scored = rewards[~rewards.isnan()]
    if len(scored) == 0:
        raise ValueError("No reward applied to any completion of the first rollout: every one returned None.")
    if len(rewards) > 1 and scored.max() == scored.min():
        raise ValueError(
            f"All {len(scored)} completions of the first rollout got the reward {scored[0].item():g}, so there is "
            "nothing to learn. Look at the completions (log_completions), take a reward that tells them apart, or set "
            "startup_checks=False if a constant reward is what you want."
        )


def _check_endings(trainer: "PolicyGradientTrainer", rollout: dict[str, Tensor]) -> None:
    vocabulary = trainer._base_model.config.get_text_config().vocab_size
    outside = [token for token in trainer.eos_token_ids if token is None or not 0 <= token < vocabulary]
    if outside:
        raise ValueError(
            f"The EOS id {outside[0]} is not in the model's vocabulary of {vocabulary}: no answer could ever end. The "
            "tokenizer does not belong to this model."
        )
    ended = torch.isin(
        rollout["completion_ids"], torch.tensor(trainer.eos_token_ids, device=rollout["rewards"].device)
    )
    ended = trainer.accelerator.gather((ended & rollout["completion_mask"].bool()).any(dim=1))
    if not ended.any():
        logger.warning(
            f"None of the first {len(ended)} answers ended within max_completion_length="
            f"{trainer.max_completion_length} tokens. If answers should end, raise it, or warm the model up on texts "
            "that do."
        )


def _check_policy(trainer: "PolicyGradientTrainer", rollout: dict[str, Tensor]) -> None:
    """The policy in training mode against itself in evaluation mode (dropout), and against the reference."""
    rows = slice(0, min(_ROWS, trainer.args.per_device_train_batch_size))
    ids = torch.cat([rollout["prompt_ids"], rollout["completion_ids"]], dim=1)[rows]
    mask = torch.cat([rollout["prompt_mask"], rollout["completion_mask"]], dim=1)[rows]
    length = rollout["completion_ids"].shape[1]

    training = trainer._forward(trainer.model, ids, mask, length, with_values=False).log_probs
    trainer.model.eval()
    evaluation = trainer._forward(trainer.model, ids, mask, length, with_values=False).log_probs
    trainer.model.train()
    tolerance = 0.5 if trainer.args.bf16 or trainer.args.fp16 else 1e-3
    if (apart := (training - evaluation).abs().max().item()) > tolerance:
        raise ValueError(
            f"Before any update the policy in training mode differs from the policy that was sampled by {apart:.3g} "
            "in a token's log-probability, so the ratio is not 1. Something is random in its forward, most likely "
            "dropout: leave disable_dropout=True, and set lora_dropout to 0."
        )
    if "ref_per_token_logps" in rollout and _starts_at_reference(trainer):
        difference = (evaluation - rollout["ref_per_token_logps"][rows]) * rollout["completion_mask"][rows]
        if (apart := difference.abs().max().item()) > tolerance:
            raise ValueError(
                f"Before any update the policy differs from its reference by {apart:.3g} in a token's "
                "log-probability, so the KL does not start at 0. Load both from the same weights, in the same "
                "precision."
            )


def _starts_at_reference(trainer: "PolicyGradientTrainer") -> bool:
    """
    A reference that is named is another model, and a LoRA adapter that does not start at zero (`init_lora_weights`)
    another policy than its base.
    """
    if trainer.args.reference_model_name_or_path is not None:
        return False
    model = trainer.accelerator.unwrap_model(trainer.model)
    if not is_peft_model(model) or "ref" in model.peft_config:
        return True
    return all(getattr(config, "init_lora_weights", False) is True for config in model.peft_config.values())
