"""Log-probabilities that come with sampled tokens: in place of a pass of the policy, or to correct for the sampler."""

from dataclasses import replace
from typing import Any

import torch
from accelerate.logging import get_logger
from torch import Tensor, nn

from lmrl import core
from lmrl.checks import CHECKED_ROWS
from lmrl.drawn import Drawn
from lmrl.models import ScoredCompletions
from lmrl.models.scoring import scatter_to_padded

from .configs import PolicyGradientConfig
from .engines import is_sharded
from .meter import Meter
from .reference import Scorer
from .rollout import Rollout

logger = get_logger(__name__)

# Largest difference of a token's log-probability from that of the pass; rounding in float32 makes it 1e-5.
TOLERANCE = 1e-4


class SampledLogProbs:
    """
    Uses what the sampler has computed for the tokens that it drew: log-probabilities, and states for a critic.

    If it decodes in the precision of the scoring pass, and a comparison on the first rollout finds equal numbers, the
    pass that gives old log-probabilities and values is left out. If another engine samples, advantages are weighed by
    the ratio of the two policies.
    """

    def __init__(self, args: PolicyGradientConfig, scorer: Scorer, critic: nn.Module | None) -> None:
        self.args = args
        self.scorer = scorer
        self._critic: Any = critic
        is_other_engine = args.use_vllm or args.use_transformers_continuous_batching
        # A critic that reads other states than the policy's, or whose weights are shards, needs a pass anyway.
        reads_others = any(getattr(critic, name, None) is not None for name in ("backbone", "adapter"))
        needs_pass = critic is not None and (reads_others or is_sharded(scorer.accelerator))
        self._may_replace = not (
            is_other_engine
            or scorer.accelerator.mixed_precision != "no"
            or (args.num_iterations == 1 and args.steps_per_generation == 1)
            or needs_pass
        )
        self._is_same: bool | None = None  # whether both give the same, once compared
        is_needed = args.corrects_for_sampler or self._may_replace
        self.record = Drawn(with_states=critic is not None and self._may_replace) if is_needed else None

    def add_to(self, rollout: Rollout, policy: Any, with_policy: bool) -> Rollout:
        """
        Returns a rollout with the sampler's log-probabilities: as `sampling_log_probs` if they are to correct it, and
        as the old ones if these are needed (`with_policy`) and a pass of the policy, in its engine, gives the same.
        """
        if self.record is None:
            return rollout
        log_probs, states = self.record.take(rollout.completion_ids.shape[1])
        is_incomplete = log_probs is None or (self._critic is not None and states is None)
        if self._may_replace and self._is_same is None and is_incomplete:
            self._log_and_keep_pass("the sampler does not give them for this architecture")
        if log_probs is None:
            return rollout
        mask = rollout.completion_mask.bool()
        log_probs = log_probs.to(mask.device).masked_fill(~mask, 0.0)
        scored = rollout
        if with_policy and self._may_replace and self._is_same is not False:
            values = None if self._critic is None else self._values(states, mask)
            scored = rollout.with_policy_pass(ScoredCompletions(log_probs=log_probs, state_values=values))
            if self._is_same is None:
                self._is_same = self._compare(scored, policy)
        rollout = scored if self._is_same else rollout
        return replace(rollout, sampling_log_probs=log_probs) if self.args.corrects_for_sampler else rollout

    @torch.no_grad()
    def _values(self, states: Any, mask: Tensor) -> Tensor:
        states = states.to(mask.device)[mask]
        return scatter_to_padded(self._critic(states, lambda _: states), mask)

    @torch.no_grad()
    def _compare(self, rollout: Rollout, policy: Any) -> bool:
        """Returns whether a pass of the policy gives the same for the first rows of each process, up to rounding."""
        args = self.args
        rows = next(rollout.split(min(CHECKED_ROWS, args.per_device_train_batch_size)))
        scored = self.scorer.forward(policy, rows, self._critic is not None)
        pairs = [(scored.log_probs, rows.old_log_probs)]
        if self._critic is not None:
            scale = scored.state_values.abs().max().clamp(min=1.0)
            pairs.append((scored.state_values / scale, rows.old_values / scale))
        differences = torch.stack([(one - other).abs().max() for one, other in pairs])
        largest = self.scorer.accelerator.gather(differences).max().item()
        is_quantized = getattr(self.scorer.accelerator.unwrap_model(policy), "is_quantized", False)
        if largest <= TOLERANCE and not is_quantized:  # false for NaN
            return True
        self._log_and_keep_pass(f"those of the sampler differ by {largest:.2g}")
        return False

    def _log_and_keep_pass(self, reason: str) -> None:
        self._is_same = False
        logger.warning(f"A pass of the policy over each rollout gives its old log-probabilities: {reason}.")

    def weigh(self, rollout: Rollout, meter: Meter) -> Rollout:
        """Returns a rollout whose advantages are weighed by the importance ratio, if it is to be corrected."""
        if rollout.sampling_log_probs is None:
            return rollout
        args = self.args
        mask = rollout.completion_mask
        bounds = (args.vllm_importance_sampling_clip_min, args.vllm_importance_sampling_clip_max)
        log_probs = (rollout.old_log_probs, rollout.sampling_log_probs)
        ratio, is_outside = core.importance_ratio(*log_probs, mask, args.vllm_importance_sampling_mode, *bounds)
        difference = (log_probs[0] - log_probs[1]).abs()
        meter.log_importance(difference.nan_to_num(nan=0.0), ratio, is_outside, mask)
        if ratio.dim() < rollout.advantages.dim():
            ratio = ratio.unsqueeze(1)
        return replace(rollout, advantages=rollout.advantages * ratio)
