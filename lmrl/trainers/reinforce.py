"""REINFORCE with a choice of baselines."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lmrl import core
from lmrl.models import ScoredCompletions

from .reference import kl_penalty
from .rollout import PolicyGradientTrainer, Rollout

CITATION = """@article{williams1992simple,
  title   = {Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning},
  author  = {Williams, Ronald J.},
  journal = {Machine Learning},
  volume  = {8},
  pages   = {229--256},
  year    = {1992}
}

@inproceedings{ahmadian2024back,
  title     = {Back to Basics: Revisiting {REINFORCE}-Style Optimization for Learning from Human Feedback in {LLM}s},
  author    = {Ahmadian, Arash and Cremer, Chris and Gall{\\'e}, Matthias and Fadaee, Marzieh and Kreutzer, Julia and
               Pietquin, Olivier and {\\"U}st{\\"u}n, Ahmet and Hooker, Sara},
  booktitle = {Proceedings of the 62nd Annual Meeting of the Association for Computational Linguistics},
  year      = {2024},
  url       = {https://huggingface.co/papers/2402.14740}
}"""


class ReinforceTrainer(PolicyGradientTrainer):
    """
    REINFORCE on whole completions: the advantage is the reward, less the KL penalty, less a baseline.

        A_i = r_i - beta * sum_t k1_it - b_i

    where the baseline is one of `none`, `batch_mean`, `leave_one_out`, `moving_average` and `greedy` (`args.baseline`;
    see [`lmrl.core.baselines`]). All but `greedy` are taken of the reward less its KL penalty. Where a rollout serves
    several updates, the ratio of whole completions is clipped as RLOO does.

    Args:
        model, reward_funcs, args, train_dataset, **kwargs:
            As for [`PolicyGradientTrainer`], with [`ReinforceConfig`].
    """

    name = "REINFORCE"
    citation = CITATION
    reported_settings = ("baseline", *PolicyGradientTrainer.reported_settings)
    _tag_names = ["trl", "lmrl", "reinforce"]  # noqa: RUF012
    _average: Tensor | None = None

    def credit(self, rollout: Rollout) -> Rollout:
        """Returns `advantages`, (B,)."""
        penalty = core.masked_sum(kl_penalty(rollout, self.beta), rollout["completion_mask"], dim=1)
        rewards = self.accelerator.gather(rollout["rewards"] - penalty)
        if self.args.baseline == "greedy":
            advantages = rewards - core.greedy(self.accelerator.gather(rollout["greedy_rewards"]))
        else:
            advantages = rewards - self._baseline(rewards)
        if self.args.normalize_advantages:
            advantages = core.standardize(advantages, core.masked_moments(advantages, ~advantages.isnan()))
        return {"advantages": self._local(advantages)}

    def _baseline(self, rewards: Tensor) -> Tensor:
        """The baseline of the completions of all processes, (N,)."""
        match self.args.baseline:
            case "none":
                return core.no_baseline(rewards)
            case "batch_mean":
                return core.batch_mean(rewards)
            case "moving_average":
                baseline, average = core.moving_average(rewards, self._average, self.args.baseline_decay)
                self._average = average if self.model.training else self._average
                return baseline
        num_generations = self.num_generations if self.model.training else self.num_generations_eval
        return core.leave_one_out(rewards, num_generations)

    def own_state(self) -> dict[str, Any]:
        """Returns the state of [`PolicyGradientTrainer`], and the moving average."""
        state = super().own_state()
        return state if self._average is None else {**state, "reward_average": self._average.item()}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Takes up what [`own_state`] returned."""
        super().load_own_state(state)
        if "reward_average" in state:
            self._average = torch.tensor(state["reward_average"], device=self.accelerator.device)

    def loss(self, scored: ScoredCompletions, rollout: Rollout) -> Tensor:
        """Returns the loss, averaged over completions."""
        mask = rollout["completion_mask"]
        logps = core.masked_sum(scored.log_probs, mask, dim=1)
        if self._credit_in_training_pass:
            self._log_value("clip_ratio/region_mean", 0.0)  # the ratio is 1
            return core.reinforce_loss(logps, rollout["advantages"]).mean()
        old_logps = core.masked_sum(rollout["old_per_token_logps"], mask, dim=1)
        advantages, low, high = rollout["advantages"], self.epsilon_low, self.epsilon_high
        clipped = core.clip_fraction(logps.detach(), old_logps, advantages, mask.any(dim=1), low, high)
        self._log_value("clip_ratio/region_mean", self.accelerator.reduce(clipped, reduction="mean"))
        return core.clipped_policy_loss(logps, old_logps, advantages, low, high).mean()

    # -- the self-critical baseline ----------------------------------------------------------------------------------

    def _calculate_rewards(self, inputs: list[dict[str, Any]], prompts: list[Any], *args: Any) -> Tensor:
        rewards = super()._calculate_rewards(inputs, prompts, *args)
        if self.args.baseline == "greedy":
            learned = self._reward_states()  # of what the policy sampled: greedy completions are no part of that
            self._greedy_rewards = self._score_greedily(inputs, prompts)
            self._load_reward_states(learned)
            self._rewards_per_func = rewards
        return rewards

    def _rewards(self, rollout: Rollout) -> Rollout:
        rewards = super()._rewards(rollout)
        return rewards if self.args.baseline != "greedy" else {**rewards, "greedy_rewards": self._greedy_rewards}

    def _score_greedily(self, inputs: list[dict[str, Any]], prompts: list[Any]) -> Tensor:
        """The reward of the greedy completion of each local prompt, (B,), decoded once per prompt where it can be."""
        group = self.num_generations if self.model.training else self.num_generations_eval
        step = group if len(prompts) % group == 0 else 1
        inputs, prompts = inputs[::step], prompts[::step]
        with self._greedy_decoding():
            ids = self._generate_single_turn(self._tokenize_prompts(prompts)[0], None, {})
        completions: list[Any] = self.processing_class.batch_decode(ids, skip_special_tokens=True)
        if not isinstance(prompts[0], str):
            completions = [[{"role": "assistant", "content": text}] for text in completions]
        rewards = self._local(self._total_rewards(super()._calculate_rewards(inputs, prompts, completions, ids)))
        if self.args.missing_eos_penalty is not None:
            unfinished = torch.tensor([row[-1] not in self.eos_token_ids for row in ids], device=rewards.device)
            rewards = rewards - self.args.missing_eos_penalty * unfinished
        return rewards.repeat_interleave(step)

    @contextmanager
    def _greedy_decoding(self) -> Iterator[None]:
        sampling, self.generation_config = self.generation_config, copy.deepcopy(self.generation_config)
        self.generation_config.update(do_sample=False, temperature=None, top_p=None, top_k=None, min_p=None)
        try:
            yield
        finally:
            self.generation_config = sampling
