"""Models: loading them, and the policy's forward with its critic. They know nothing of how they are trained."""

from .critic import CRITIC_FILE, Critic, attach_critic, load_critic, save_critic
from .heads import ScoredCompletions, add_scoring_forward, check_scoring_forward, get_critic
from .loading import context_length, disable_dropout, load_model, load_tokenizer


__all__ = [
    "CRITIC_FILE",
    "Critic",
    "ScoredCompletions",
    "add_scoring_forward",
    "attach_critic",
    "check_scoring_forward",
    "context_length",
    "disable_dropout",
    "get_critic",
    "load_critic",
    "load_model",
    "load_tokenizer",
    "save_critic",
]
