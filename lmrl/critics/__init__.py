"""Critics: learned heads on a policy's states, and a regression that is fitted anew for every rollout."""

from .epochs import train_on_states
from .learned import (
    CRITIC_FILE,
    Critic,
    attach_critic,
    critic_weights,
    get_critic,
    load_critic,
    make_critic,
    reload_critic,
    save_critic,
    set_critic_learning_rate,
)
from .least_squares import LeastSquaresCritic
from .progress import RewardProgress, check_potentials

__all__ = [
    "CRITIC_FILE",
    "Critic",
    "LeastSquaresCritic",
    "RewardProgress",
    "attach_critic",
    "check_potentials",
    "critic_weights",
    "get_critic",
    "load_critic",
    "make_critic",
    "reload_critic",
    "save_critic",
    "set_critic_learning_rate",
    "train_on_states",
]
