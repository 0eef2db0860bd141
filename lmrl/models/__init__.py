"""Models: loading them, and the policy's forward with its critic. They know nothing of how they are trained."""

from .adapters import TrunkAdapter, widen_adapters
from .classifiers import load_trainable_classifier
from .critic import CRITIC_FILE, Critic, attach_critic, load_critic, save_critic
from .decoding import decoding_weights, neutral_generation_config
from .fusing import fuse_activations
from .heads import ScoredCompletions, add_scoring_forward, check_scoring_forward, get_critic
from .loading import context_length, disable_dropout, load_backbone, load_model, load_tokenizer
from .merging import write_merged
from .sharing import offer_base_model

__all__ = [
    "CRITIC_FILE",
    "Critic",
    "ScoredCompletions",
    "TrunkAdapter",
    "add_scoring_forward",
    "attach_critic",
    "check_scoring_forward",
    "context_length",
    "decoding_weights",
    "disable_dropout",
    "fuse_activations",
    "get_critic",
    "load_backbone",
    "load_critic",
    "load_model",
    "load_tokenizer",
    "load_trainable_classifier",
    "neutral_generation_config",
    "offer_base_model",
    "save_critic",
    "widen_adapters",
    "write_merged",
]
