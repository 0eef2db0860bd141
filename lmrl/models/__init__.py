"""Loading of models and tokenizers, and a policy's forward, independent of how it is trained."""

from .adapters import (
    TrunkAdapter,
    adapter_config,
    backbone_of,
    base_of,
    check_lora_targets,
    linear_layers,
    tied_targets,
    upcast_adapters_to_fp32,
)
from .loading import (
    context_length,
    copy_backbone,
    disable_dropout,
    fuse_activations,
    load_backbone_and_head,
    load_model,
    load_policy,
    load_tokenizer,
    read_tokenizer,
    show_special_tokens,
    write_merged,
)
from .sampling import DecodingWeights, draw, neutral_generation_config, sampling_together
from .scoring import ScoredCompletions, add_scoring_forward, check_scoring_forward
from .shared_base import offer_base_model
from .shared_prompts import share_prompts

__all__ = [
    "DecodingWeights",
    "ScoredCompletions",
    "TrunkAdapter",
    "adapter_config",
    "add_scoring_forward",
    "backbone_of",
    "base_of",
    "check_lora_targets",
    "check_scoring_forward",
    "context_length",
    "copy_backbone",
    "disable_dropout",
    "draw",
    "fuse_activations",
    "linear_layers",
    "load_backbone_and_head",
    "load_model",
    "load_policy",
    "load_tokenizer",
    "neutral_generation_config",
    "offer_base_model",
    "read_tokenizer",
    "sampling_together",
    "share_prompts",
    "show_special_tokens",
    "tied_targets",
    "upcast_adapters_to_fp32",
    "write_merged",
]
