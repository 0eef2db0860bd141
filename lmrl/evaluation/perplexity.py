"""How likely completions are under a model that was not trained on the reward."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .generation import Completion, Prompt, check_context, encode_prompts, eval_mode
from .metrics import Score

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
    prompt_ids = encode_prompts(tokenizer, prompts)
    pairs = [(prompt_ids[c.row], _completion_ids(tokenizer, c)) for c in completions]
    for prompt, ids in pairs:
        check_context(model, [len(prompt)], len(ids))
    # Prompts of like length together: a batch computes logits from the end of its shortest prompt on.
    order = sorted(range(len(pairs)), key=lambda i: (-len(pairs[i][0]), -len(pairs[i][1])))
    sums = torch.zeros(len(pairs), dtype=torch.float64)
    with eval_mode(model):
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            sums[rows] = _log_prob_sums(model, [pairs[row] for row in rows])
    counts = torch.tensor([len(ids) for _, ids in pairs])
    row_scores = (-sums / counts).exp().tolist()  # 0 / 0 is NaN
    value = float((-sums.sum() / counts.sum()).exp())
    name = getattr(model.config, "name_or_path", "") or type(model).__name__
    signature = f"model:{name}|given:prompt|per:token|eos:where finished|pooled:corpus"
    return Score("perplexity", value, signature, row_scores, higher_is_better=False)


def _completion_ids(tokenizer: "PreTrainedTokenizerBase", completion: Completion) -> list[int]:
    ids = list(tokenizer(completion.text, add_special_tokens=False)["input_ids"])
    return [*ids, tokenizer.eos_token_id] if completion.finished and tokenizer.eos_token_id is not None else ids


def _log_prob_sums(model: "PreTrainedModel", pairs: list[tuple[list[int], list[int]]]) -> "Tensor":
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
    sums = torch.zeros(len(pairs), dtype=torch.float64)
    for row, (prompt, ids) in enumerate(pairs):
        # One row at a time in float32: the copy for the softmax is as small as it gets.
        logits = output.logits[row, len(prompt) - 1 - first : len(prompt) - 1 + len(ids) - first].float()
        targets = torch.tensor(ids, dtype=torch.long, device=logits.device)
        sums[row] = logits.log_softmax(-1).gather(-1, targets[:, None]).double().sum().cpu()
    return sums
