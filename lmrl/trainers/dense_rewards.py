"""What PPO and REINFORCE share: reading what rewards know of texts that have not ended yet."""

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from lmrl.critics import LeastSquaresCritic, RewardProgress, check_potentials

from .base import PolicyGradientTrainer


class DenseRewardTrainer(PolicyGradientTrainer):
    """
    A trainer that reads what its rewards know of the texts so far: for a fitted critic ([`LeastSquaresCritic`]), which
    has it as features, and for dense rewards (`args.shaping`), which are its differences.

    A subclass may set `fitted`, whose sums checkpoints then have.
    """

    fitted: LeastSquaresCritic | None = None

    def create_critic(self, policy: PreTrainedModel) -> nn.Module | None:
        """Returns no critic; makes the reader of rewards, which a `ValueError` refuses if they cannot be shaped."""
        rewards = [reward.reward_func for reward in self.reward_funcs]
        if self.args.shaping is not None:
            check_potentials(rewards)
        weighing = (self.reward_weights, self.args.reward_clip_range)
        self.reward_progress = RewardProgress(rewards, *weighing, self.accelerator, self._tokenizer)
        return None

    def extra_rewards(self, inputs: list[dict[str, Any]], prompts: list[Any]) -> dict[str, Tensor]:
        """Keeps the columns of the rows, which are read again with each beginning of a completion."""
        self.reward_progress.keep_columns(inputs, prompts)
        return {}

    def potentials(self, completion_ids: Tensor, mask: Tensor) -> Tensor:
        """Returns the rewards as if completions ended before each token, (B, T)."""
        with self.meter.clock("reward"):
            return self.reward_progress.potentials(completion_ids, mask)

    def fitted_values(
        self, states: Tensor, completion_ids: Tensor, totals: Tensor, returns: Tensor, mask: Tensor
    ) -> Tensor:
        """
        Returns the values of states, (B, T), by a critic that is fitted, and then has it learn this rollout, too.
        Arguments are those of [`LeastSquaresCritic.value_rollout`].
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
        """Adds a fitted critic."""
        state = super().run_state_dict()
        return state if self.fitted is None else state | {"critic": self.fitted.state_dict()}

    def load_run_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a fitted critic, too."""
        super().load_run_state_dict(state)
        if self.fitted is not None:
            self.fitted.load_state_dict(state.get("critic"))
