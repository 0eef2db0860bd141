"""Divergence of a policy from the one that training started from."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .encoding import Prompt
from .generation import Completion, eval_mode
from .perplexity import completion_logits, pooled_perplexity, token_pairs
from .scores import Score, mean_score

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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

    vocab_size = model.config.get_text_config().vocab_size
    reference_vocab_size = reference.config.get_text_config().vocab_size
    if vocab_size != reference_vocab_size:
        raise ValueError(
            f"`reference` must have the {vocab_size} tokens of the policy, got {reference_vocab_size}. Give the model "
            "that training started from."
        )
    pairs = token_pairs(model, tokenizer, prompts, completions)
    kls = [0.0] * len(pairs)
    log_prob_sums = [0.0] * len(pairs)
    with eval_mode(model), eval_mode(reference):
        for row, (logits, ref_logits), targets in completion_logits([model, reference], pairs, batch_size):
            log_probs = logits.log_softmax(-1)
            ref_log_probs = ref_logits.log_softmax(-1).to(logits.device)
            kls[row] = float((log_probs.exp() * (log_probs - ref_log_probs)).double().sum())
            log_prob_sums[row] = float(log_probs.gather(-1, targets[:, None]).double().sum())
    name = getattr(reference.config, "name_or_path", "") or type(reference).__name__
    along = "exact:over the vocabulary|along:the completions, tokenised anew"
    signature = f"reference:{name}|{along}|per:completion|unit:nats"
    counts = torch.tensor([len(ids) for _, ids in pairs])
    return {
        "kl": mean_score("kl", signature, kls, higher_is_better=None),
        "own_perplexity": pooled_perplexity(
            "own_perplexity", "model:the policy itself", -torch.tensor(log_prob_sums, dtype=torch.float64), counts
        ),
    }
