"""The frozen model that the KL of a policy is measured to."""

import copy
from typing import Any

from accelerate.utils import is_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lmrl.models import (
    add_scoring_forward,
    base_of,
    check_scoring_forward,
    fuse_activations,
    load_model,
    load_tokenizer,
    scoring,
)
from lmrl.utils import known_as, refuse


def make_frozen_model(
    policy: Any, given: PreTrainedModel | None, tokenizer: PreTrainedTokenizerBase, args: Any
) -> Any:
    """
    Returns the frozen model that the KL is measured to: the one that `reference_model_name_or_path` names, else a copy
    of the policy as it is now, before it gets its scoring forward. None without a KL penalty, and for LoRA with no
    name, unless there is a copy of the policy as it was `given`. A `ValueError` if the model does not fit the policy.
    """
    name = args.reference_model_name_or_path
    has_adapter = is_peft_model(policy)
    if args.sync_ref_model and has_adapter and (name is not None or given is not None):
        raise ValueError(
            "`sync_ref_model` must be False for an adapter whose reference is another model, got True. Its weights "
            "have none there to be mixed into: leave it out, or `reference_model_name_or_path`, and a `bias` and "
            "`init_lora_weights` that change the base."
        )
    if args.beta == 0 or (name is None and has_adapter and given is None):
        return None
    if name is None:
        reference = given or copy.deepcopy(policy)
        reference.__dict__.pop("forward", None)  # TRL's, whose closure still holds the policy
    else:
        reference = _load_reference(name, policy, tokenizer, args)
    reference.eval().requires_grad_(False)
    add_scoring_forward(reference, args.temperature)
    check_scoring_forward(reference, args.temperature, args.scoring_pass)
    if args.startup_checks:
        scoring.check_padding(reference)
    return reference


def _load_reference(name: str, policy: Any, tokenizer: PreTrainedTokenizerBase, args: Any) -> Any:
    """Returns the named reference, in which token ids must mean the same. More rows of embeddings do no harm."""
    source = {"trust_remote_code": args.trust_remote_code}
    with known_as("reference_model_name_or_path"):
        reference = load_model(name, base_of(policy).dtype, device=base_of(policy).device, **source)
    fuse_activations(reference)
    try:
        vocabulary = load_tokenizer(name, **source).get_vocab()
    except ValueError:  # no tokenizer lies beside it: the number of tokens has to do
        vocabulary = None
    tokens = reference.config.get_text_config().vocab_size
    policy_tokens = base_of(policy).config.get_text_config().vocab_size
    differing = [] if vocabulary is None else tokenizer.get_vocab().items() ^ vocabulary.items()
    token, token_id = min(differing, key=lambda item: item[1], default=("", 0))
    shapes = [[weight.shape for weight in model.parameters()] for model in (reference, policy)]
    cannot_move = args.sync_ref_model and shapes[0] != shapes[1]
    has_others = tokens < policy_tokens or (vocabulary is None and tokens != policy_tokens)
    remedy = "The KL of a token needs the same tokens in both: name a model with the policy's tokenizer."
    refuse(
        {
            f"The reference {name!r} has {tokens} tokens and the policy {policy_tokens}. {remedy}": has_others,
            f"The tokenizers of the policy and of the reference {name!r} differ in {len(differing)} tokens, such as "
            f"{token!r} with the id {token_id}. {remedy}": differing,
            f"`sync_ref_model` must be False for a reference of other shapes than the policy, got True and {name!r}. "
            "It mixes the policy's weights into those of its reference: leave it out.": cannot_move,
        }
    )
    return reference
