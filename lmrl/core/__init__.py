"""The arithmetic of policy-gradient fine-tuning: tensors in, tensors out, torch alone.

Legend of the shapes, here and in every docstring of lmrl:

- B: completions in the batch at hand
- P: prompts, G: completions per prompt, B = P * G, the completions of a prompt side by side
- T: completion tokens, L: prompt and completion tokens
- `mask` (B, T): 1 where a completion token counts (up to and with the first EOS), 0 on padding

Arguments that mean the same in every function, tensors of shape (B, T), or (B,) where a completion is one element:

- `log_probs`, `old_log_probs`, `ref_log_probs`: log-probabilities, <= 0, of the sampled tokens under the policy being
  trained, that policy as it was at the rollout, and the reference
- `sampling_log_probs`: log-probabilities of the sampled tokens as the sampler computed them, in its own precision
- `advantages`: reward minus baseline, or those of [`generalized_advantages`]; detached
- `values`: any numbers, possibly NaN where the mask is 0; a critic's are the values of the state before each token
- `rewards` (B,): reward of each completion, over all processes; `token_rewards` (B, T): of each token
- `dim`: dimension to reduce; all of them by default, which gives a scalar

Losses, estimates, baselines, returns and standardized values have the shape of their arguments.
"""

from .baselines import BASELINES, batch_mean, group_mean, group_std, leave_one_out, moving_average, update_average
from .diagnostics import clipped, explained_variance, quarters
from .importance import IMPORTANCE_MODES, importance_ratio
from .kl import adaptive_coefficient, k1, k3
from .least_squares import (
    fit_ridge,
    join_features,
    linear_values,
    narrow,
    regression_moments,
    squared_error,
    sums_so_far,
)
from .losses import average_tokens, clipped_policy_loss, clipped_value_loss, reinforce_loss
from .masking import last_index, masked_mean, masked_moments, masked_sum, standardize
from .returns import discounted_returns, generalized_advantages, place_at_end, shaped_rewards
from .rewards import ended, equal_groups, weighted_rewards

__all__ = [
    "BASELINES",
    "IMPORTANCE_MODES",
    "adaptive_coefficient",
    "average_tokens",
    "batch_mean",
    "clipped",
    "clipped_policy_loss",
    "clipped_value_loss",
    "discounted_returns",
    "ended",
    "equal_groups",
    "explained_variance",
    "fit_ridge",
    "generalized_advantages",
    "group_mean",
    "group_std",
    "importance_ratio",
    "join_features",
    "k1",
    "k3",
    "last_index",
    "leave_one_out",
    "linear_values",
    "masked_mean",
    "masked_moments",
    "masked_sum",
    "moving_average",
    "narrow",
    "place_at_end",
    "quarters",
    "regression_moments",
    "reinforce_loss",
    "shaped_rewards",
    "squared_error",
    "standardize",
    "sums_so_far",
    "update_average",
    "weighted_rewards",
]
