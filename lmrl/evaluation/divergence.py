"""How far a policy has moved from the one that training started from."""

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
    only with each other. The texts are tokenised anew, as for [`perplexity`].

    Args:
        model (`transformers.PreTrainedModel` or `peft.PeftModel`):
            The policy.
        reference (`transformers.PreTrainedModel`):
            The reference, with the same tokens.
        tokenizer (`transformers.PreTrainedTokenizerBase`):
            The tokenizer of both.
        prompts (list of `str`, or list of lists of messages):
            The prompts that `completion.row` points to.
        completions (list of [`Completion`]):
            Texts of the policy.
        batch_size (`int`, *optional*, defaults to `8`):
            Completions per forward pass.

    Returns:
        `dict` of two [`Score`].

    Raises:
        `ValueError`: if the two models have different numbers of tokens.
    """
    import torch

    sizes = model.config.get_text_config().vocab_size, reference.config.get_text_config().vocab_size
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"The policy has {sizes[0]} tokens and the reference {sizes[1]}: a KL needs the same tokens in both. "
            "Name the model that training started from."
        )
    pairs = token_pairs(model, tokenizer, prompts, completions)
    order = sorted(range(len(pairs)), key=lambda i: (-len(pairs[i][0]), -len(pairs[i][1])))
    kls, log_probs = [0.0] * len(pairs), [0.0] * len(pairs)
    with eval_mode(model), eval_mode(reference):
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = [pairs[row] for row in rows]
            passes = zip(rows, completion_logits(model, batch), completion_logits(reference, batch), strict=True)
            for row, (logits, targets), (ref_logits, _) in passes:
                ours, theirs = logits.log_softmax(-1), ref_logits.log_softmax(-1).to(logits.device)
                kls[row] = float((ours.exp() * (ours - theirs)).double().sum())
                log_probs[row] = float(ours.gather(-1, targets[:, None]).double().sum())
    name = getattr(reference.config, "name_or_path", "") or type(reference).__name__
    along = "exact:over the vocabulary|along:the completions, tokenised anew"
    signature = f"reference:{name}|{along}|per:completion|unit:nats"
    counts = torch.tensor([len(ids) for _, ids in pairs])
    return {
        "kl": mean_score("kl", signature, kls, higher_is_better=None),
        "own_perplexity": pooled_perplexity(
            "own_perplexity", "model:the policy itself", -torch.tensor(log_probs, dtype=torch.float64), counts
        ),
    }
