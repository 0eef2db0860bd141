"""How likely completions are under a model that was not trained on the reward."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

from .encoding import Prompt, check_context, encode_prompts
from .generation import Completion, eval_mode
from .scores import Score, pooled_score

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TokenPair: TypeAlias = tuple[list[int], list[int]]  # token ids of a prompt and of its completion


def perplexity(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    *,
    batch_size: int = 8,
) -> Score:
    """
    Returns `exp(-sum log p(token | prompt, tokens before) / number of tokens)` over the tokens of all completions.

    The texts are tokenised anew, so that the model may have another tokenizer than the one that generated them; the
    end-of-sequence token counts where the completion finished. Row scores are the perplexities of single completions
    (NaN for one without a token).

    Args:
        model (`transformers.PreTrainedModel` or `peft.PeftModel`):
            The frozen model that judges.
        tokenizer (`transformers.PreTrainedTokenizerBase`):
            Its tokenizer.
        prompts (list of `str`, or list of lists of messages):
            The prompts that `completion.row` points to.
        completions (list of [`Completion`]):
            What is judged.
        batch_size (`int`, *optional*, defaults to `8`):
            Completions per forward pass. Logits of completion positions alone are computed, `batch_size` times
            completion length times vocabulary of them.

    Returns:
        [`Score`] named `perplexity`; its value is NaN if no completion has a token.

    Raises:
        `ValueError`: if there are no completions, or one does not fit into the model's positions.
    """
    import torch

    if not completions:
        raise ValueError("There are 0 completions, but a perplexity needs at least 1.")
    pairs = token_pairs(model, tokenizer, prompts, completions)
    # Prompts of like length together: a batch computes logits from the end of its shortest prompt on.
    order = sorted(range(len(pairs)), key=lambda i: (-len(pairs[i][0]), -len(pairs[i][1])))
    sums = torch.zeros(len(pairs), dtype=torch.float64)
    with eval_mode(model):
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            sums[rows] = _log_prob_sums(model, [pairs[row] for row in rows])
    counts = torch.tensor([len(ids) for _, ids in pairs])
    name = getattr(model.config, "name_or_path", "") or type(model).__name__
    return pooled_perplexity("perplexity", f"model:{name}", -sums, counts)


def pooled_perplexity(name: str, model: str, surprise: "Tensor", tokens: "Tensor") -> Score:
    """Returns the score of completions with these sums of `-log p` (B,) over so many tokens (B,)."""
    row_scores = (surprise / tokens).exp().tolist()  # 0 / 0 is NaN
    statistics = [[float(nats), float(count)] for nats, count in zip(surprise, tokens, strict=True)]
    signature = f"{model}|given:prompt|per:token|eos:where finished|pooled:corpus"
    return pooled_score(name, signature, "perplexity", statistics, row_scores, higher_is_better=False)


def token_pairs(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
) -> list[TokenPair]:
    """Returns the token ids of each completion's prompt and of itself; they must fit into the model's positions."""
    prompt_ids = encode_prompts(tokenizer, prompts)
    pairs = [(prompt_ids[c.row], _completion_ids(tokenizer, c)) for c in completions]
    for prompt, ids in pairs:
        check_context(model, [len(prompt)], len(ids))
    return pairs


def _completion_ids(tokenizer: "PreTrainedTokenizerBase", completion: Completion) -> list[int]:
    ids = list(tokenizer(completion.text, add_special_tokens=False)["input_ids"])
    return [*ids, tokenizer.eos_token_id] if completion.finished and tokenizer.eos_token_id is not None else ids


def _log_prob_sums(model: "PreTrainedModel", pairs: list[TokenPair]) -> "Tensor":
    import torch

    sums = torch.zeros(len(pairs), dtype=torch.float64)
    for row, (logits, targets) in enumerate(completion_logits(model, pairs)):
        sums[row] = logits.log_softmax(-1).gather(-1, targets[:, None]).double().sum().cpu()
    return sums


def completion_logits(model: "PreTrainedModel", pairs: list[TokenPair]) -> "Iterator[tuple[Tensor, Tensor]]":
    """
    Yields for each pair the logits (T, V) at its completion's tokens, in float32, and these tokens (T,).

    One row at a time in float32: the copy for a softmax is as small as it gets.
    """
    import torch

    # Padding on the right: a causal model sees none of it and counts positions from the first token by itself.
    width = max(len(prompt) + len(ids) for prompt, ids in pairs)
    keep = width - min(len(prompt) for prompt, _ in pairs) + 1
    input_ids = torch.zeros((len(pairs), width), dtype=torch.long)
    mask = torch.zeros((len(pairs), width), dtype=torch.long)
    for row, (prompt, ids) in enumerate(pairs):
        input_ids[row, : len(prompt) + len(ids)] = torch.tensor(prompt + ids)
        mask[row, : len(prompt) + len(ids)] = 1
    output = model(input_ids=input_ids.to(model.device), attention_mask=mask.to(model.device), logits_to_keep=keep)
    first = width - output.logits.shape[1]  # the position of the first logits
    for row, (prompt, ids) in enumerate(pairs):
        logits = output.logits[row, len(prompt) - 1 - first : len(prompt) - 1 + len(ids) - first].float()
        yield logits, torch.tensor(ids, dtype=torch.long, device=logits.device)
