"""The trainers: TRL's RLOOTrainer with the credit assignment changed. The only room that knows TRL's private names."""

from lmrl.checkpoints import find_checkpoint

from .base import PolicyGradientTrainer
from .configs import PolicyGradientConfig, PPOConfig
from .ppo import PPOTrainer
from .reinforce import ReinforceTrainer
from .reinforce_config import ReinforceConfig
from .rollout import Credit, Rollout

__all__ = [
    "Credit",
    "PPOConfig",
    "PPOTrainer",
    "PolicyGradientConfig",
    "PolicyGradientTrainer",
    "ReinforceConfig",
    "ReinforceTrainer",
    "Rollout",
    "find_checkpoint",
]
