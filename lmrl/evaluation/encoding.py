"""Prompts as token ids, as training has them, and whether they fit into the model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Prompt: TypeAlias = str | list[dict[str, Any]]


def encode_prompts(tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[Prompt]) -> list[list[int]]:
    """
    Returns the token ids of the prompts as training has them: texts as the tokenizer makes them, messages by the chat
    template with the generation prompt added. An empty prompt becomes the beginning-of-sequence token.

    Args:
        tokenizer (`transformers.PreTrainedTokenizerBase`):
            The model's tokenizer.
        prompts (list of `str`, or list of lists of messages):
            The prompts.

    Returns:
        list of lists of `int`, one per prompt, none of them empty.

    Raises:
        `ValueError`: if a prompt is empty and the tokenizer has no beginning-of-sequence token.
    """
    encoded: list[list[int]] = []
    for row, prompt in enumerate(prompts):
        if isinstance(prompt, str):
            encoding: Any = tokenizer(prompt)
        else:
            encoding = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)
        ids = list(encoding["input_ids"])
        if not ids:
            if tokenizer.bos_token_id is None:
                raise ValueError(
                    f"Prompt {row} is {prompt!r}, which has no token: a model needs one to start from, and the "
                    "tokenizer has no bos token. Give the prompt some text, or the tokenizer a bos_token."
                )
            ids = [tokenizer.bos_token_id]
        encoded.append(ids)
    return encoded


def check_context(model: "PreTrainedModel", prompt_lengths: Sequence[int], new_tokens: int) -> None:
    """
    Raises `ValueError` if the longest prompt and `new_tokens` more do not fit into the model's positions.

    Args:
        model (`transformers.PreTrainedModel` or `peft.PeftModel`):
            The model; one that states no `max_position_embeddings` takes any length.
        prompt_lengths (list of `int`):
            Tokens of each prompt.
        new_tokens (`int`):
            Tokens that come after it.
    """
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = max(prompt_lengths, default=0)
    if limit is not None and longest + new_tokens > limit:
        raise ValueError(
            f"Prompt {prompt_lengths.index(longest)} has {longest} tokens and max_new_tokens is {new_tokens}: "
            f"{longest + new_tokens} together, but the model has {limit} positions. "
            + (f"Set max_new_tokens to {limit - longest} or less, or shorten" if longest < limit else "Shorten")
            + " the prompt."
        )
