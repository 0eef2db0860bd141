"""What a run knows beyond TRL's checkpoints: saved with each of them, and taken up again on resuming."""

import json
from pathlib import Path
from typing import Any

from accelerate.logging import get_logger
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .metrics import MeasuredTrainer
from .scoring import CheckedReward, RewardError

logger = get_logger(__name__)

STATE_NAME = "lmrl_state.json"


class ResumableTrainer(MeasuredTrainer):
    """
    RLOO whose checkpoints hold all that a run has learned, so that a resumed run goes on as if it had not stopped.

    Beside what Trainer saves (weights, optimizer, scheduler, random numbers), `lmrl_state.json` in each checkpoint has
    the state of the rewards, the adaptive KL coefficient, the average of REINFORCE's baseline, the place within the
    rollout and the figures that were not logged yet. Prompts come in the order in which they would have come. The
    rollout itself is not saved: resumed in the middle of one, the rest of its updates is made on new completions of
    the same prompts.
    """

    model_card: str | None = None
    _train_sampler: Any = None

    def own_state(self) -> dict[str, Any]:
        """Returns what is saved of this trainer, as JSON can hold it."""
        metrics = {name: [float(value) for value in values] for name, values in self._metrics["train"].items()}
        state = {"step": self._step, "rewards": self._reward_states(), "metrics": metrics}
        return state if self.args.kl_target is None else {**state, "beta": self.beta}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Takes up what [`own_state`] returned. Another `beta` may be given to a resumed run, unless it adapts."""
        self._step = state["step"]
        self._load_reward_states(state["rewards"])
        self._metrics["train"].update(state["metrics"])
        if self.args.kl_target is not None and "beta" in state:
            self.beta = state["beta"]

    def _reward_states(self) -> dict[str, dict[str, Any]]:
        rewards = self._rewards_by_name()
        stateful = {name: reward for name, reward in rewards.items() if hasattr(reward, "state_dict")}
        return {name: state for name, reward in stateful.items() if (state := reward.state_dict())}

    def _load_reward_states(self, states: dict[str, dict[str, Any]]) -> None:
        rewards = self._rewards_by_name()
        for name, state in states.items():
            if name not in rewards:
                logger.warning(f"The checkpoint has a state of the reward {name!r}, which this run does not use.")
            else:
                rewards[name].load_state_dict(state)

    def _rewards_by_name(self) -> dict[str, Any]:
        checked: list[CheckedReward] = self.reward_funcs
        return {reward.__name__: reward.reward_func for reward in checked}

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        self._train_sampler = super()._get_train_sampler(dataset)
        return self._train_sampler

    def _skip_epochs(self) -> None:
        """TRL's sampler shuffles anew in each epoch, from one seed: a resumed run would begin with the first order."""
        for _ in range(int(self.state.epoch or 0)):
            next(iter(self._train_sampler or ()), None)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes TRL's draft of a model card, or `model_card` once there is one, which is then pushed, too."""
        if self.model_card is None:
            super().create_model_card(*args, **kwargs)
        elif self.is_world_process_zero():
            (Path(self.args.output_dir) / "README.md").write_text(self.model_card, encoding="utf-8")

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.args.should_save:  # first, so that it is in the folder when that is pushed or counted
            folder = Path(self._get_output_dir(trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            unfinished = folder / f"{STATE_NAME}.tmp"
            unfinished.write_text(json.dumps(self.own_state(), indent=2), encoding="utf-8")
            unfinished.replace(folder / STATE_NAME)
        super()._save_checkpoint(model, trial)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Called whatever the engine, when a run is resumed."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        self._skip_epochs()
        path = Path(checkpoint) / STATE_NAME
        if path.is_file():
            self.load_own_state(json.loads(path.read_text(encoding="utf-8")))
        else:
            logger.warning(f"{checkpoint} has no {STATE_NAME}: running averages and an adaptive beta begin anew.")
        if self.args.sync_ref_model:
            logger.warning("The moving reference is in no checkpoint: it begins anew from the policy as it was given.")

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Returns what `Trainer.train` returns; a reward that fails does not take the training done so far with it."""
        try:
            return super().train(*args, **kwargs)
        except RewardError as error:
            if self.state.global_step == 0:
                raise
            self._step -= self._step % self.args.gradient_accumulation_steps  # the step it failed in is not done
            self._save_checkpoint(self.model, trial=None)
            raise RewardError(
                f"{error} The {self.state.global_step} steps done so far are kept in "
                f"{self.args.output_dir}/checkpoint-{self.state.global_step}."
            ) from error
