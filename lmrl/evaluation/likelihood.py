"""Perplexity of completions under a language model, and divergence of a policy from its reference."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, TypeAlias

from lmrl.distributed import gather_or_fail, rank_and_world_size
from lmrl.libraries import PreTrainedModel, PreTrainedTokenizerBase, Tensor, torch

from .encoding import Prompt, encode_prompts
from .generation import Completion, end_token_ids, eval_mode
from .scores import Score, mean_score, pooled_score

TokenPair: TypeAlias = tuple[list[int], list[int]]  # token ids of a prompt and of its completion

logger = logging.getLogger(__name__)

# The scores that need a model, with whether higher is better.
MODEL_SCORES: dict[str, bool | None] = {"perplexity": False, "own_perplexity": False, "kl": None}

# Limit for a batch's logits of all models: 32 rows of 300 tokens with a vocabulary of 152,000 would take 5.8 GB.
MAX_LOGITS_BYTES = 2**30


def perplexity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    *,
    batch_size: int = 8,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> Score:
    """
    Returns `exp(-sum log p(token | prompt, tokens before) / number of tokens)` over the tokens of all completions.

    The tokens are the generated ones; for a model with another tokenizer, or a text that was not generated here, they
    are the tokens of the text, plus an end-of-sequence token if the completion finished. If prompt and completion
    exceed the model's positions, the beginning of the prompt is left out, with a warning. Row scores are the
    perplexities of single completions, NaN for one without tokens. The value is NaN if none has tokens.

    With several processes in `torch.distributed`, all must call this: they share the completions.

    Args:
        model (`transformers.PreTrainedModel` or `peft.PeftModel`), tokenizer:
            The frozen model and its tokenizer.
        prompts (list of `str`, or list of lists of messages), completions (list of [`Completion`]):
            The completions to score, and the prompts that `completion.row` points to.
        batch_size (`int`, *optional*, defaults to `8`):
            Largest number of completions per forward pass. Only the logits of completion positions are computed:
            completions times length times vocabulary, at most 1 GiB.
        chat_template_kwargs (`dict`, *optional*):
            Variables of the chat template, as in [`Decoding`].

    Raises:
        `ValueError`: if there are no completions.
    """
    if not completions:
        raise ValueError("`completions` must have at least 1 row, got 0.")
    pairs = _token_pairs(model, tokenizer, prompts, completions, chat_template_kwargs)
    log_probs = _measured([model], pairs, batch_size)[:, 0]
    counts = torch.tensor([len(ids) for _, ids in pairs])
    return pooled_perplexity("perplexity", f"model:{_name(model)}", -log_probs, counts)


def pooled_perplexity(name: str, model: str, negative_log_probs: Tensor, tokens: Tensor) -> Score:
    """Returns the perplexity from the sum of `-log p` (B,) and the number of tokens (B,) of each completion."""
    row_scores = (negative_log_probs / tokens).exp().tolist()  # 0 / 0 is NaN
    statistics = [[float(nats), float(count)] for nats, count in zip(negative_log_probs, tokens, strict=True)]
    signature = f"{model}|given:prompt|per:token|eos:where finished|pooled:corpus"
    return pooled_score(name, signature, "perplexity", statistics, row_scores, higher_is_better=False)


def divergence(
    model: PreTrainedModel,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    *,
    batch_size: int = 8,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> dict[str, Score]:
    """
    Returns the scores `kl`, in nats per completion, and `own_perplexity`, the perplexity under the policy itself.

    `kl` is the mean over completions of `sum over t of KL(policy(. | x, y_<t) || reference(. | x, y_<t))`, each term
    exact over the vocabulary. For completions sampled at temperature 1 its expectation is the KL of the two policies,
    with less variance than from log-ratios. For greedy completions it is not: then it only serves to compare
    checkpoints with each other. The tokens are those of [`perplexity`].

    With several processes in `torch.distributed`, all must call this: they share the completions.

    Args:
        model (`transformers.PreTrainedModel` or `peft.PeftModel`), reference (`transformers.PreTrainedModel`):
            The policy, and the reference, which has the same tokens.
        tokenizer, prompts, completions, batch_size, chat_template_kwargs:
            As for [`perplexity`]; the tokenizer is that of both models.

    Raises:
        `ValueError`: if the two models have different numbers of tokens.
    """
    tokens, reference_tokens = (each.config.get_text_config().vocab_size for each in (model, reference))
    if tokens != reference_tokens:
        raise ValueError(
            f"`reference` must have the {tokens} tokens of the policy, got {reference_tokens}. Give the model that "
            "training started from."
        )
    pairs = _token_pairs(model, tokenizer, prompts, completions, chat_template_kwargs)
    log_probs, kls = _measured([model, reference], pairs, batch_size).T
    generated = all(completion.token_ids is not None for completion in completions)
    along = "the generated tokens" if generated else "the completions, tokenised anew"
    signature = f"reference:{_name(reference)}|exact:over the vocabulary|along:{along}|per:completion|unit:nats"
    counts = torch.tensor([len(ids) for _, ids in pairs])
    own_perplexity = pooled_perplexity("own_perplexity", "model:the policy itself", -log_probs, counts)
    kl = mean_score("kl", signature, kls.tolist(), MODEL_SCORES["kl"])
    return {"kl": kl, "own_perplexity": own_perplexity}


def _name(model: PreTrainedModel) -> str:
    return getattr(model.config, "name_or_path", "") or type(model).__name__


def _tokenized(tokenizer: PreTrainedTokenizerBase, ends: list[int], completion: Completion) -> list[int]:
    """
    Returns the generated tokens if this tokenizer decodes them to the text, else the tokens of the text. An end token
    that is not one of the model's (`ends`) is replaced by this tokenizer's own.
    """
    generated = completion.token_ids or []
    ids = generated[:-1] if completion.finished else generated
    if not generated or tokenizer.decode(ids, skip_special_tokens=True) != completion.text:
        ids = list(tokenizer(completion.text, add_special_tokens=False)["input_ids"])
    end = next((token for token in generated[-1:] if token in ends), tokenizer.eos_token_id)
    return [*ids, end] if completion.finished and end is not None else ids


def _token_pairs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    chat_template_kwargs: Mapping[str, Any] | None,
) -> list[TokenPair]:
    """
    Returns each completion after the end of its prompt: as much as the model has positions for, at least one token.

    A text may have more tokens than were generated: half a character, cut by `max_new_tokens`, is decoded to the
    replacement character, for which many tokenizers need three tokens.
    """
    from lmrl.models import context_length

    prompt_ids = encode_prompts(tokenizer, prompts, chat_template_kwargs)
    ends = end_token_ids(model, tokenizer)
    pairs = [(prompt_ids[c.row], _tokenized(tokenizer, ends, c)) for c in completions]
    limit = context_length(model)
    if limit is None:
        return pairs
    long = sum(len(prompt) + len(ids) > limit for prompt, ids in pairs)
    if long and rank_and_world_size()[0] == 0:
        logger.warning(
            f"{long} of {len(pairs)} completions, tokenized anew, are with their prompts longer than the {limit} "
            f"positions of {_name(model)}: the beginnings of these prompts were left out."
        )
    pairs = [(prompt[-max(limit - len(ids), 1) :], ids) for prompt, ids in pairs]
    return [(prompt, ids[: limit - len(prompt)]) for prompt, ids in pairs]


def _measured(models: Sequence[PreTrainedModel], pairs: list[TokenPair], batch_size: int) -> Tensor:
    """
    Returns for each pair the log-probability of the completion under the first model, then for each other model the KL
    from the first to it, summed over the completion: (B, number of models), float64. Processes share the batches.
    """
    batches = _batches(models, pairs, batch_size)
    rank, world_size = rank_and_world_size()
    measured: dict[int, list[float]] = {}
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(eval_mode(model))
        try:
            for rows in batches[rank::world_size]:
                for row, logits, targets in _batch_logits(models, pairs, rows):
                    log_probs, *others = (each.log_softmax(-1) for each in logits)
                    sums = [log_probs.gather(-1, targets[:, None])]
                    probs = log_probs.exp()
                    differences = [log_probs - other.to(log_probs.device) for other in others]
                    sums += [probs * each.masked_fill(probs == 0, 0.0) for each in differences]  # of -inf, NaN
                    measured[row] = [float(terms.double().sum()) for terms in sums]
        except Exception:
            gather_or_fail(None, failed=True)  # the other processes wait for the values of this one
            raise
    gathered = {row: values for part in gather_or_fail(measured) for row, values in part.items()}
    ordered = [gathered[row] for row in range(len(pairs))]
    return torch.tensor(ordered, dtype=torch.float64).reshape(-1, len(models))


def _batches(models: Sequence[PreTrainedModel], pairs: list[TokenPair], batch_size: int) -> list[list[int]]:
    """Returns the indices of pairs in batches of at most `batch_size` pairs and `MAX_LOGITS_BYTES` of logits."""
    # Prompts of similar length together, as a batch computes logits from the end of its shortest prompt on.
    order = sorted(range(len(pairs)), key=lambda i: (-len(pairs[i][0]), -len(pairs[i][1])))
    position_bytes = 4 * sum(model.config.get_text_config().vocab_size for model in models)
    batches: list[list[int]] = []
    for row in order:
        grown = [*batches[-1], row] if batches else [row]
        too_large = len(grown) * _kept_positions(pairs, grown) * position_bytes > MAX_LOGITS_BYTES
        if not batches or len(grown) > batch_size or too_large:
            batches.append([row])
        else:
            batches[-1] = grown
    return batches


def _kept_positions(pairs: list[TokenPair], rows: list[int]) -> int:
    """Returns the number of last positions of the padded batch that have the logits of all completion tokens."""
    width = max(len(pairs[row][0]) + len(pairs[row][1]) for row in rows)
    return width - min(len(pairs[row][0]) for row in rows) + 1


def _batch_logits(
    models: Sequence[PreTrainedModel], pairs: list[TokenPair], rows: list[int]
) -> Iterator[tuple[int, list[Tensor], Tensor]]:
    """
    Yields each row with the logits (T, V) of each model at its completion's tokens, in float32, and these tokens (T,)
    on the first model's device.
    """
    # Padding on the right: a causal model sees none of it and counts positions from the first token by itself.
    texts = [torch.tensor(prompt + ids) for prompt, ids in (pairs[row] for row in rows)]
    input_ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(ids) for ids in texts], batch_first=True)
    width = input_ids.shape[1]
    keep = _kept_positions(pairs, rows)
    outputs = [
        model(input_ids=input_ids.to(model.device), attention_mask=mask.to(model.device), logits_to_keep=keep).logits
        for model in models
    ]
    # One row at a time is turned to float32, so that its softmax takes little memory.
    for index, row in enumerate(rows):
        prompt, ids = pairs[row]
        logits = []
        for output in outputs:
            start = len(prompt) - 1 - (width - output.shape[1])  # the logits of the first token of the completion
            logits.append(output[index, start : start + len(ids)].float())
        yield row, logits, torch.tensor(ids, dtype=torch.long, device=logits[0].device)
