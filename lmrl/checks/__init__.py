"""Checks of rewards, of a run at its start, and of what must stay finite.

They take tensors, models and limits, and never see a trainer.
"""

from .finite import DivergenceError, FiniteChecks
from .kl_stop import KLStop
from .rewards import (
    AsyncCheckedReward,
    CheckedReward,
    RewardError,
    checked_rewards,
    load_reward_states,
    raise_on_all_ranks,
    reward_states,
    unlearned,
    unlearned_on_failure,
)
from .startup import CHECKED_ROWS, check_columns, check_first_rollout, check_policy, check_rows

__all__ = [
    "CHECKED_ROWS",
    "AsyncCheckedReward",
    "CheckedReward",
    "DivergenceError",
    "FiniteChecks",
    "KLStop",
    "RewardError",
    "check_columns",
    "check_first_rollout",
    "check_policy",
    "check_rows",
    "checked_rewards",
    "load_reward_states",
    "raise_on_all_ranks",
    "reward_states",
    "unlearned",
    "unlearned_on_failure",
]
