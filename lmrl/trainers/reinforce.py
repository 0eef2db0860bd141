"""REINFORCE with a choice of baselines."""

import copy
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from lmrl import core
from lmrl.checks import unlearned
from lmrl.critics import LeastSquaresCritic, make_critic
from lmrl.distributed import even_rows, local_rows
from lmrl.drawn import replacing_rows
from lmrl.models import ScoredCompletions
from lmrl.utils import replaced

from .base import PolicyGradientTrainer
from .dense_rewards import DenseRewardTrainer
from .reinforce_config import ReinforceConfig
from .rollout import Credit, Rollout


class ReinforceTrainer(DenseRewardTrainer):
    """
    REINFORCE on complete completions: the advantage is the reward, less the KL penalty, less a baseline.

        A_i = r_i - beta * sum_t k1_it - b_i    or, with `kl_scope="token"`,    A_it = r_i - b_i - beta * k1_it

    where the baseline is one of [`lmrl.core.BASELINES`], the value of the prompt by a fitted critic, or a function
    (`args.baseline`, see [`ReinforceConfig`]). All but `greedy` are computed from the reward minus its KL penalty,
    unless `scale_rewards` keeps it apart. Where a rollout serves several updates, the ratio is clipped by completion,
    as in RLOO, or by token (`args.loss_level`), as in GRPO and its successors: docs/choosing.md has their settings.

    With `args.shaping` the advantage of a token is the reward still to come, minus a baseline for its place:

        R_it = r_i - (Phi_it - Phi_i0) - beta * sum_{s >= t} k1_is        A_it = R_it - b_it

    where Phi is the reward as if the text ended before the token. It is one more baseline: the token cannot change it.
    Arguments as for [`PolicyGradientTrainer`], with [`ReinforceConfig`].
    """

    name = "REINFORCE"
    paper: Mapping[str, str] = {"title": "Back to Basics: Revisiting REINFORCE-Style Optimization", "id": "2402.14740"}
    citation = Path(__file__).with_suffix(".bib").read_text(encoding="utf-8").strip()
    config_class = ReinforceConfig
    reported_settings = (
        "baseline",
        "loss_level",
        "shaping",
        "scale_rewards",
        *PolicyGradientTrainer.reported_settings,
    )

    _average: Tensor | None = None  # (L,), average reward of earlier rollouts, with `shaping` by place

    def create_critic(self, policy: PreTrainedModel) -> nn.Module | None:
        """Returns the module that gives a fitted critic its states if that is the baseline, and makes the critic."""
        super().create_critic(policy)
        if self.args.baseline != "critic":
            return None
        self.fitted = LeastSquaresCritic(self.args.critic_forgetting, self.num_generations, self.accelerator)
        return make_critic(policy, "least_squares")

    def credit(self, rollout: Rollout) -> Credit:
        """Returns the advantages of completions, (B,), or with `loss_level="token"` of tokens, (B, T)."""
        mask = rollout.completion_mask
        penalty, own_penalty = self.reference.penalties(rollout, self.beta)
        total = core.masked_sum(penalty, mask, dim=1).unsqueeze(1)
        remaining = total - penalty.cumsum(dim=1) + penalty  # penalty from each token on
        charge = total if self.args.shaping is None else remaining
        rewards = self._rewards_to_come(rollout.rewards, rollout.completion_ids, mask)
        if self.args.scale_rewards == "none":
            rewards = rewards - charge
            advantages = rewards - self._baseline(rewards, rollout)
        else:  # the penalty is not scaled: nearly equal rewards would make it huge
            every = self.accelerator.gather(rollout.rewards)
            group = self.completions_per_prompt if self.args.scale_rewards == "group" else len(every)
            scale = local_rows(core.group_std(every, group)).unsqueeze(1)
            advantages = (rewards - self._baseline(rewards, rollout)) / scale - charge
        weights = self._weights(rollout).unsqueeze(1)
        if self.args.loss_level == "token":
            # A token is charged its own KL (k1) and the penalty of later tokens; earlier ones it cannot change.
            advantages = advantages + charge - remaining + penalty - own_penalty
            weights = weights * mask
        if self.args.normalize_advantages:
            counts = (weights > 0) & ~advantages.isnan()
            advantages = core.standardize(advantages, self.meter.moments(advantages, counts))
        advantages = advantages * weights
        return Credit(advantages=advantages if self.args.loss_level == "token" else advantages.squeeze(1))

    def _rewards_to_come(self, rewards: Tensor, completion_ids: Tensor, mask: Tensor) -> Tensor:
        """
        Returns the rewards of completions, (B, 1), or with `shaping` the reward still to come from each token on, (B,
        T): the sum of the dense rewards from there, which is the reward minus the potential before the token.
        """
        rewards = rewards.unsqueeze(1)
        if self.args.shaping is None:
            return rewards
        potentials = self.potentials(completion_ids, mask)
        return rewards - (potentials - potentials[:, :1])

    def _to_longest(self, rewards: Tensor, mask: Tensor) -> Tensor:
        """
        Returns rewards (B, 1) as they are, and rewards to come (B, T) at each place of the longest possible
        completion, (B, L), so that baselines can compare them; past its end a completion has that of its last token.
        """
        length = 1 if self.args.shaping is None else self.args.max_completion_length
        last = core.last_index(mask).clamp(min=0).unsqueeze(1)
        return rewards.gather(1, torch.arange(length, device=mask.device).minimum(last))

    def _weights(self, rollout: Rollout) -> Tensor:
        """
        Returns the weights of completions, (B,): 1 by default. With `drop_equal_groups` 0 where all completions of a
        prompt got the same reward, and elsewhere such that a mean over all completions is the mean over the others.
        """
        if not self.args.drop_equal_groups:
            return torch.ones_like(rollout.rewards)
        rewards, lengths = self.accelerator.gather((rollout.rewards, rollout.lengths))
        equal = self._equal_groups(rewards)
        self.meter.log("dropped_groups", equal.float().mean())
        by_tokens = self.args.loss_level == "token" and self.args.loss_type == "dapo"
        sizes = lengths if by_tokens else torch.ones_like(rewards)
        return local_rows(~equal * (sizes.sum() / sizes[~equal].sum().clamp(min=1)))

    def _equal_groups(self, rewards: Tensor) -> Tensor:
        """Returns, for the completions of all processes, whether all of their prompt got the same reward, (N,)."""
        return core.equal_groups(rewards, self.completions_per_prompt, self.args.equal_groups_tolerance)

    def _baseline(self, rewards: Tensor, rollout: Rollout) -> Tensor:
        """Returns the baseline of the rewards, (B, 1), or for rewards to come, (B, T), a baseline at each place."""
        if self.fitted is not None:
            return self._values(rewards, rollout)
        places = self.accelerator.gather(self._to_longest(rewards, rollout.completion_mask)).T
        greedy: Any = [None] * len(places)
        averages: Any = [None] * len(places)
        if rollout.greedy_rewards is not None:
            greedy = self.accelerator.gather(rollout.greedy_rewards).view(-1, len(places)).T
        if self._average is not None:  # a resumed run may have another number of places
            known = torch.arange(len(places), device=places.device).clamp(max=len(self._average) - 1)
            averages = self._average[known]
        found = [self._baseline_of(*of_place) for of_place in zip(places, averages, greedy, strict=True)]
        if self.args.baseline == "moving_average" and self.model.training:
            pairs = zip(averages, places, strict=True)
            self._average = torch.stack([core.update_average(*pair, self.args.baseline_decay) for pair in pairs])
        baseline = local_rows(torch.stack(found, dim=1))
        return pad(baseline, (0, rewards.shape[1] - baseline.shape[1]))  # padded or cut to the rollout's width

    def _baseline_of(self, rewards: Tensor, average: Tensor | None, greedy_rewards: Tensor | None) -> Tensor:
        """Returns the baseline at one place for the completions of all processes, (N,)."""
        group = self.completions_per_prompt
        if callable(self.args.baseline):
            return self.args.baseline(rewards, group)
        known = {"num_generations": group, "average": average, "greedy_rewards": greedy_rewards}
        return core.BASELINES[self.args.baseline](rewards, **known)

    def _values(self, returns: Tensor, rollout: Rollout) -> Tensor:
        """Returns the fitted values of prompts, (B, 1), or with `shaping` of the states before tokens, (B, T)."""
        # Without `shaping`, only the state before the first token, which knows nothing of the completion.
        kept = slice(1 if self.args.shaping is None else None)
        tensors = (rollout.old_values, rollout.completion_ids, rollout.completion_mask)
        states, completion_ids, mask = (tensor[:, kept] for tensor in tensors)
        totals = self.accelerator.gather(returns[:, 0])
        values = self.fitted_values(states, completion_ids, totals, returns, mask)
        self.meter.log_explained(values, returns, mask, totals, self.completions_per_prompt)
        return values

    def loss(self, scored: ScoredCompletions, rollout: Rollout) -> Tensor:
        """Returns the loss, averaged over completions, or over tokens by the rule of `loss_type`."""
        mask = rollout.completion_mask
        if self.args.loss_level == "token":
            clip = (rollout.old_log_probs, rollout.advantages, self.epsilon_low, self.epsilon_high)
            self.meter.log_clipping(*core.clipped(scored.log_probs.detach(), *clip), mask)
            per_token = core.clipped_policy_loss(scored.log_probs, *clip)
            lengths = (rollout.mean_length[0], self.args.max_completion_length)
            return core.average_tokens(per_token, mask, self.args.loss_type, *lengths)
        log_probs = core.masked_sum(scored.log_probs, mask, dim=1)
        old_log_probs = core.masked_sum(rollout.old_log_probs, mask, dim=1)
        clip = (old_log_probs, rollout.advantages, self.epsilon_low, self.epsilon_high)
        self.meter.log_clipping(*core.clipped(log_probs.detach(), *clip), mask.any(dim=1))
        if self.serves_one_update:  # the ratio is 1
            return core.reinforce_loss(log_probs, rollout.advantages).mean()
        return core.clipped_policy_loss(log_probs, *clip).mean()

    def run_state_dict(self) -> dict[str, Any]:
        """Adds the moving average of the rewards."""
        state = super().run_state_dict()
        return state if self._average is None else {**state, "reward_average": self._average.tolist()}

    def load_run_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the moving average, too."""
        super().load_run_state_dict(state)
        if "reward_average" in state:
            self._average = torch.tensor(state["reward_average"], device=self.accelerator.device).view(-1)

    # -- completions beside those that are trained on: sampled anew, or decoded greedily ----------------------------

    def choose_completions(self, rows: list[dict[str, Any]], prompt_ids: Any, ids: Any, texts: Any) -> Any:
        """Samples prompts anew, `resample_equal_groups` times at most, while their completions get equal rewards."""
        if not (self.args.resample_equal_groups and self.model.training):
            return prompt_ids, ids, texts
        ids = list(ids)
        rewards = self._score_aside(rows, ids)
        for attempts in range(self.args.resample_equal_groups + 1):
            equal = self._equal_groups(self.accelerator.gather(rewards))
            if attempts == 0:
                self.meter.log_mean("resampling/reward", rewards, ~rewards.isnan())
                self.meter.log("resampling/equal_groups", equal.float().mean())
            if attempts == self.args.resample_equal_groups or not equal.any():
                break
            # vLLM samples complete groups for all processes at once, so there every prompt is sampled anew.
            places = list(range(len(rows))) if self.use_vllm else even_rows(equal)
            own = local_rows(equal).tolist()
            with replacing_rows(self.sampled.record, places, own, self.args.max_completion_length):
                new_ids = self._generate_single_turn([prompt_ids[place] for place in places], None, {})
            new_rewards = self._score_aside([rows[place] for place in places], new_ids)
            for drawn, place in enumerate(places):
                if own[place]:
                    ids[place] = new_ids[drawn]
                    rewards[place] = new_rewards[drawn]
        self.meter.log("resampling/attempts", attempts)
        return prompt_ids, ids, self._decode(rows, ids)

    def extra_rewards(self, inputs: list[dict[str, Any]], prompts: list[Any]) -> dict[str, Tensor]:
        """
        Returns, for the baseline `greedy`, the rewards of the greedy completions, (B, 1), or with `shaping` the
        rewards to come at each of their places, (B, L).
        """
        found = {"greedy_rewards": self._score_greedily(inputs)} if self.args.baseline == "greedy" else {}
        return found | super().extra_rewards(inputs, prompts)

    def _score_greedily(self, rows: list[dict[str, Any]]) -> Tensor:
        """Returns rewards of greedy completions, decoded once per prompt if all its rows are here, else per row."""
        group = self.completions_per_prompt
        step = group if len(rows) % group == 0 else 1
        rows = rows[::step]
        greedy = copy.deepcopy(self.generation_config)
        greedy.update(do_sample=False, temperature=None, top_p=None, top_k=None, min_p=None)
        with replaced(self, "generation_config", greedy):
            ids = self._generate_single_turn(self._tokenize_prompts([row["prompt"] for row in rows])[0], None, {})
        rewards = self._score_aside(rows, ids)
        self.reward_progress.keep_columns(rows, [row["prompt"] for row in rows])
        tokens = [torch.tensor(row, device=self.accelerator.device) for row in ids]
        mask = pad_sequence([torch.ones_like(row) for row in tokens], batch_first=True)
        rewards = self._to_longest(self._rewards_to_come(rewards, pad_sequence(tokens, batch_first=True), mask), mask)
        return rewards.repeat_interleave(step, dim=0)

    def _decode(self, rows: list[dict[str, Any]], ids: list[list[int]]) -> list[Any]:
        """Returns completions as TRL has them: messages where prompts are conversations."""
        texts = self.processing_class.batch_decode(ids, skip_special_tokens=True)
        if isinstance(rows[0]["prompt"], str):
            return list(texts)
        return [[{"role": "assistant", "content": text}] for text in texts]

    def _score_aside(self, rows: list[dict[str, Any]], ids: list[list[int]]) -> Tensor:
        """Returns rewards (B,) of completions not (yet) trained on; states and logs of the rewards do not change."""
        has_ended = torch.tensor([row[-1] in self.eos_token_ids for row in ids], device=self.accelerator.device)
        with ExitStack() as put_back:
            put_back.enter_context(unlearned(self.reward_funcs))
            for name in ("_pending_extra_logs", "_pending_metrics"):
                put_back.enter_context(replaced(self, name, defaultdict(list)))
            per_func = self.call_rewards(rows, [row["prompt"] for row in rows], self._decode(rows, ids), ids)
        return self.total_rewards(per_func, has_ended)
