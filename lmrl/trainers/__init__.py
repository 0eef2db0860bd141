"""The trainers: TRL's RLOOTrainer with the credit assignment changed. The only room that knows TRL's private names."""

from .checkpoints import find_checkpoint
from .configs import PolicyGradientConfig, PPOConfig, ReinforceConfig
from .ppo import PPOTrainer
from .reinforce import ReinforceTrainer
from .rollout import PolicyGradientTrainer

__all__ = [
    "PPOConfig",
    "PPOTrainer",
    "PolicyGradientConfig",
    "PolicyGradientTrainer",
    "ReinforceConfig",
    "ReinforceTrainer",
    "find_checkpoint",
]
