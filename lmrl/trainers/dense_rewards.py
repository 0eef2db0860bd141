"""What PPO and REINFORCE share: reading what rewards know of texts that have not ended yet."""

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from lmrl.critics import LeastSquaresCritic, RewardProgress, check_potentials

from .base import PolicyGradientTrainer


class DenseRewardTrainer(PolicyGradientTrainer):
    """
    A trainer that reads what its rewards know of unfinished texts, their `progress`: features of a fitted critic
    ([`LeastSquaresCritic`]), and a potential, whose differences are dense rewards (`args.shaping`).
    A subclass may set `fitted`, a critic whose sums are then saved in checkpoints.
    """

    fitted: LeastSquaresCritic | None = None

    def create_critic(self, policy: PreTrainedModel) -> nn.Module | None:
        """Makes the reader of rewards' progress; a `ValueError` if `shaping` lacks a potential. Returns no critic."""
        rewards = [reward.reward_func for reward in self.reward_funcs]
        if self.args.shaping is not None:
            check_potentials(rewards)
        weighing = (self.reward_weights, self.args.reward_clip_range)
        self.reward_progress = RewardProgress(rewards, *weighing, self.accelerator, self._tokenizer)
        return None

    def extra_rewards(self, inputs: list[dict[str, Any]], prompts: list[Any]) -> dict[str, Tensor]:
        """Keeps the columns of the rows, which the rewards read again for unfinished texts; adds no rewards."""
        self.reward_progress.keep_columns(inputs, prompts)
        return {}

    def potentials(self, completion_ids: Tensor, mask: Tensor) -> Tensor:
        """Returns what the total reward would be if the completion ended before each token, (B, T)."""
        with self.meter.clock("reward"):
            return self.reward_progress.potentials(completion_ids, mask)

    def fitted_values(
        self, states: Tensor, completion_ids: Tensor, totals: Tensor, returns: Tensor, mask: Tensor
    ) -> Tensor:
        """
        Returns the values of states, (B, T), by the fitted critic, which afterwards learns from this rollout too, but
        not in an evaluation. The arguments are those of [`LeastSquaresCritic.value_rollout`].
        """
        fitted: Any = self.fitted
        with self.meter.clock("reward"):
            progress = self.reward_progress.numbers(completion_ids, mask)
        used = (states, completion_ids, progress, totals, returns, mask)
        values, features = fitted.value_rollout(*used, self.completions_per_prompt)
        if self.model.training:
            fitted.update(features, returns, mask)
        return values

    def run_state_dict(self) -> dict[str, Any]:
        """Adds the state of a fitted critic."""
        state = super().run_state_dict()
        return state if self.fitted is None else state | {"critic": self.fitted.state_dict()}

    def load_run_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a fitted critic, too."""
        super().load_run_state_dict(state)
        if self.fitted is not None and state.get("critic", "") is not None:  # None: no reward applied until then
            self.fitted.load_state_dict(state.get("critic"))
