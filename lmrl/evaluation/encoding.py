"""Prompts as token ids, encoded as in training, and as text."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from lmrl.libraries import PreTrainedModel, PreTrainedTokenizerBase
from lmrl.utils import tokenize_prompt

Prompt: TypeAlias = str | list[dict[str, Any]]


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> list[list[int]]:
    """
    Returns the token ids of the prompts as in training: texts go through the tokenizer, messages through the chat
    template with these variables and the generation prompt. An empty prompt becomes the beginning-of-sequence token.

    Raises:
        `ValueError`: if a prompt is empty and the tokenizer has no beginning-of-sequence token, or the chat template
            refuses it.
    """
    encoded: list[list[int]] = []
    for row, prompt in enumerate(prompts):
        ids = tokenize_prompt(tokenizer, prompt, row, **(chat_template_kwargs or {}))
        if not ids:
            if tokenizer.bos_token_id is None:
                raise ValueError(
                    f"`prompt` of row {row} must have at least 1 token, got {prompt!r}, and the tokenizer has no bos "
                    "token to start from. Give the prompt some text, or the tokenizer a `bos_token`."
                )
            ids = [tokenizer.bos_token_id]
        encoded.append(ids)
    return encoded


def check_context(model: PreTrainedModel, row: int, prompt_length: int, new_tokens: int) -> None:
    """Raises a `ValueError` if a prompt and `new_tokens` more tokens exceed the model's positions, if limited."""
    from lmrl.models import context_length

    limit = context_length(model)
    if limit is not None and prompt_length + new_tokens > limit:
        remedy = "Shorten the prompt."
        if prompt_length < limit:
            less = f"{limit - prompt_length} or less"
            remedy = f"Set `max_new_tokens` (of recipes `eval_max_new_tokens`) to {less}, or shorten the prompt."
        raise ValueError(
            f"`prompt` of row {row} and its completion must fit into the model's {limit} positions, got "
            f"{prompt_length} + {new_tokens} tokens. {remedy}"
        )


def prompt_text(prompt: Prompt) -> str:
    """Returns a prompt as text; of a conversation, one message per line, after its role."""
    if isinstance(prompt, str):
        return prompt.strip()
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)
