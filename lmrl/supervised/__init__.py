"""What the recipes of warm starts and of learned rewards share."""

from lmrl.supervised.configs import RecipeConfig, check_defaults
from lmrl.supervised.steps import (
    check_tokenized,
    load_reward_model,
    prepare_step,
    save_accuracy,
    save_preferences,
    smallest_limit,
)

__all__ = [
    "RecipeConfig",
    "check_defaults",
    "check_tokenized",
    "load_reward_model",
    "prepare_step",
    "save_accuracy",
    "save_preferences",
    "smallest_limit",
]
