"""Perplexity of completions under a language model, and divergence of a policy from its reference."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

from .encoding import Prompt, check_context, encode_prompts
from .generation import Completion, eval_mode
from .scores import Score, mean_score, pooled_score

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

    The texts are tokenized anew, so that the model may have another tokenizer than the one that generated them; the
    end-of-sequence token counts if the completion finished. Row scores are the perplexities of single completions,
    NaN for one without a token; so is the value if none has one.

    Args:
        model (`transformers.PreTrainedModel` or `peft.PeftModel`):
            The frozen model.
        tokenizer (`transformers.PreTrainedTokenizerBase`):
            Its tokenizer.
        prompts (list of `str`, or list of lists of messages):
            The prompts that `completion.row` points to.
        completions (list of [`Completion`]):
            The completions to score.
        batch_size (`int`, *optional*, defaults to `8`):
            Completions per forward pass. Only the logits of completion positions are computed: `batch_size` times
            completion length times vocabulary.

    Raises:
        `ValueError`: if there are no completions, or one does not fit into the model's positions.
    """
    import torch

    if not completions:
        raise ValueError("`completions` must have at least 1 row, got 0.")
    pairs = _token_pairs(model, tokenizer, prompts, completions)
    sums = torch.zeros(len(pairs), dtype=torch.float64)
    with eval_mode(model):
        for row, (logits,), targets in _completion_logits([model], pairs, batch_size):
            sums[row] = logits.log_softmax(-1).gather(-1, targets[:, None]).double().sum().cpu()
    counts = torch.tensor([len(ids) for _, ids in pairs])
    name = getattr(model.config, "name_or_path", "") or type(model).__name__
    return pooled_perplexity("perplexity", f"model:{name}", -sums, counts)


def pooled_perplexity(name: str, model: str, negative_log_probs: "Tensor", tokens: "Tensor") -> Score:
    """Returns the score of completions with these sums of `-log p` (B,) over these numbers of tokens (B,)."""
    row_scores = (negative_log_probs / tokens).exp().tolist()  # 0 / 0 is NaN
    statistics = [[float(nats), float(count)] for nats, count in zip(negative_log_probs, tokens, strict=True)]
    signature = f"{model}|given:prompt|per:token|eos:where finished|pooled:corpus"
    return pooled_score(name, signature, "perplexity", statistics, row_scores, higher_is_better=False)


def divergence(
    model: "PreTrainedModel",
    reference: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    *,
    batch_size: int = 8,
) -> dict[str, Score]:
    """
    Returns `kl`, in nats per completion, and `own_perplexity`, that of the completions under the policy itself.

    `kl` is the mean over completions of `sum over t of KL(policy(. | x, y_<t) || reference(. | x, y_<t))`, each term
    exact over the vocabulary. Of completions sampled at temperature 1 its expectation is the KL of the two policies,
    with less variance than log-ratios have; along greedy texts it is no such expectation, and compares checkpoints
    only with each other. The texts are tokenized anew, as for [`perplexity`].

    Args:
        model (`transformers.PreTrainedModel` or `peft.PeftModel`):
            The policy.
        reference (`transformers.PreTrainedModel`):
            The reference, with the same tokens.
        tokenizer, prompts, completions, batch_size:
            As for [`perplexity`]; the tokenizer is that of both models.

    Raises:
        `ValueError`: if the two models have different numbers of tokens.
    """
    import torch

    tokens, reference_tokens = (each.config.get_text_config().vocab_size for each in (model, reference))
    if tokens != reference_tokens:
        raise ValueError(
            f"`reference` must have the {tokens} tokens of the policy, got {reference_tokens}. Give the model that "
            "training started from."
        )
    pairs = _token_pairs(model, tokenizer, prompts, completions)
    kls = [0.0] * len(pairs)
    log_prob_sums = torch.zeros(len(pairs), dtype=torch.float64)
    with eval_mode(model), eval_mode(reference):
        for row, (logits, ref_logits), targets in _completion_logits([model, reference], pairs, batch_size):
            log_probs = logits.log_softmax(-1)
            ref_log_probs = ref_logits.log_softmax(-1).to(logits.device)
            kls[row] = float((log_probs.exp() * (log_probs - ref_log_probs)).double().sum())
            log_prob_sums[row] = log_probs.gather(-1, targets[:, None]).double().sum().cpu()
    name = getattr(reference.config, "name_or_path", "") or type(reference).__name__
    exact = "exact:over the vocabulary|along:the completions, tokenised anew"
    signature = f"reference:{name}|{exact}|per:completion|unit:nats"
    counts = torch.tensor([len(ids) for _, ids in pairs])
    own = pooled_perplexity("own_perplexity", "model:the policy itself", -log_prob_sums, counts)
    return {"kl": mean_score("kl", signature, kls, higher_is_better=None), "own_perplexity": own}


def _token_pairs(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
) -> list[TokenPair]:
    """Returns the token ids of each completion's prompt and of itself; they must fit into the model's positions."""
    prompt_ids = encode_prompts(tokenizer, prompts)
    pairs = []
    for completion in completions:
        prompt = prompt_ids[completion.row]
        ids = list(tokenizer(completion.text, add_special_tokens=False)["input_ids"])
        if completion.finished and tokenizer.eos_token_id is not None:
            ids.append(tokenizer.eos_token_id)
        check_context(model, completion.row, len(prompt), len(ids))
        pairs.append((prompt, ids))
    return pairs


def _completion_logits(
    models: "Sequence[PreTrainedModel]", pairs: list[TokenPair], batch_size: int
) -> "Iterator[tuple[int, list[Tensor], Tensor]]":
    """
    Yields for each pair its index, the logits (T, V) of each model at its completion's tokens, in float32, and these
    tokens (T,) on the first model's device.
    """
    # Prompts of like length together: a batch computes logits from the end of its shortest prompt on.
    order = sorted(range(len(pairs)), key=lambda i: (-len(pairs[i][0]), -len(pairs[i][1])))
    for start in range(0, len(order), batch_size):
        yield from _batch_logits(models, pairs, order[start : start + batch_size])


def _batch_logits(
    models: "Sequence[PreTrainedModel]", pairs: list[TokenPair], rows: list[int]
) -> "Iterator[tuple[int, list[Tensor], Tensor]]":
    import torch

    # Padding on the right: a causal model sees none of it and counts positions from the first token by itself.
    batch = [pairs[row] for row in rows]
    width = max(len(prompt) + len(ids) for prompt, ids in batch)
    keep = width - min(len(prompt) for prompt, _ in batch) + 1
    input_ids = torch.zeros((len(rows), width), dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for index, (prompt, ids) in enumerate(batch):
        input_ids[index, : len(prompt) + len(ids)] = torch.tensor(prompt + ids)
        mask[index, : len(prompt) + len(ids)] = 1
    outputs = [
        model(input_ids=input_ids.to(model.device), attention_mask=mask.to(model.device), logits_to_keep=keep).logits
        for model in models
    ]
    # One row at a time in float32, so that its softmax takes little memory.
    for index, row in enumerate(rows):
        prompt, ids = pairs[row]
        logits = []
        for output in outputs:
            start = len(prompt) - 1 - (width - output.shape[1])  # the logits of the first token of the completion
            logits.append(output[index, start : start + len(ids)].float())
        yield row, logits, torch.tensor(ids, dtype=torch.long, device=logits[0].device)
