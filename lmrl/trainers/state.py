"""What a run knows beyond TRL's checkpoints: saved with each of them, and taken up again on resuming."""

import json
from pathlib import Path
from typing import Any

import torch
from accelerate.logging import get_logger
from safetensors.torch import load_file, save_file
from trl.trainer.utils import split_tensor_dict

from .metrics import MeasuredTrainer
from .reference import load_reference, save_reference
from .scoring import CheckedReward

logger = get_logger(__name__)

STATE_NAME = "lmrl_state.json"
ROLLOUT_NAME = "rollout.safetensors"


class ResumableTrainer(MeasuredTrainer):
    """
    RLOO whose checkpoints hold all that a run has learned, so that a resumed run goes on as if it had not stopped.

    Beside what Trainer saves (weights, optimizer, scheduler, random numbers), a checkpoint has of each process
    `lmrl_state.json` (of the second one `lmrl_state_1.json`): the state of the rewards, the adaptive KL coefficient,
    the average of REINFORCE's baseline, the place within the rollout and the figures that were not logged yet. Within
    a rollout it has `rollout.safetensors`, and with a moving reference `reference.safetensors`. Prompts come in the
    order in which they would have come.
    """

    _train_sampler: Any = None
    _unlogged: tuple[float, int] | None = None

    def own_state(self) -> dict[str, Any]:
        """Returns what is saved of this trainer, as JSON can hold it."""
        metrics = {name: [float(value) for value in values] for name, values in self._metrics["train"].items()}
        state = {"step": self._step, "rewards": self._reward_states(), "metrics": metrics}
        state |= {"loss": float(self._tr_loss), "last_logged": self._globalstep_last_logged}
        return state if self.args.kl_target is None else {**state, "beta": self.beta}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Takes up what [`own_state`] returned. Another `beta` may be given to a resumed run, unless it adapts."""
        self._step = state["step"]
        self._load_reward_states(state["rewards"])
        self._metrics["train"].update(state["metrics"])
        self._unlogged = state["loss"], state["last_logged"]
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

    @property
    def _rollout_steps(self) -> int:
        """Batches that are trained on a rollout."""
        return int(self.args.steps_per_generation * self.num_iterations)

    def _own(self, folder: Path, name: str) -> Path:
        """The file of this process."""
        rank, (stem, ending) = self.accelerator.process_index, name.split(".")
        return folder / (f"{stem}_{rank}.{ending}" if rank else name)

    # -- saving ------------------------------------------------------------------------------------------------------

    def save_own(self, folder: Path) -> None:
        """Write into a checkpoint what Trainer does not, on every process."""
        state = {**self.own_state(), "num_processes": self.accelerator.num_processes}
        if self._step % self._rollout_steps and self._buffered_inputs is not None:
            names = self._buffered_inputs[0]
            rollout = {name: torch.cat([batch[name] for batch in self._buffered_inputs]) for name in names}
            save_file(rollout, self._own(folder, ROLLOUT_NAME))
            state["completions"] = self._completions_table()
        self._own(folder, STATE_NAME).write_text(json.dumps(state, indent=2), encoding="utf-8")
        if self.args.sync_ref_model:
            save_reference(self, folder)

    def _completions_table(self) -> dict[str, Any]:
        """What `log_completions` shows of the rollout."""
        if not self.log_completions:
            return {}
        plain = {name: list(self._logs[name]) for name in ("prompt", "completion", "advantages")}
        groups = {group: {k: list(v) for k, v in self._logs[group].items()} for group in ("rewards", "extra")}
        return dict(json.loads(json.dumps(plain | groups, default=str)))  # a reward may log anything

    # -- resuming ----------------------------------------------------------------------------------------------------

    def load_own(self, folder: Path) -> None:
        """Take up what [`save_own`] wrote."""
        path = self._own(folder, STATE_NAME)
        path = path if path.is_file() else folder / STATE_NAME
        if path.is_file():
            state = json.loads(path.read_text(encoding="utf-8"))
            self.load_own_state(state)
            self._load_rollout(folder, state)
        else:
            logger.warning(f"{folder} has no {STATE_NAME}: running averages and an adaptive beta begin anew.")
        if self.args.sync_ref_model:
            load_reference(self, folder)

    def _load_rollout(self, folder: Path, state: dict[str, Any]) -> None:
        path, batches = self._own(folder, ROLLOUT_NAME), self.args.steps_per_generation
        if state.get("num_processes", self.accelerator.num_processes) != self.accelerator.num_processes:
            logger.warning(
                f"{folder} was saved by {state['num_processes']} processes and this run has "
                f"{self.accelerator.num_processes}: it goes on, but not with the random numbers and prompts it would "
                "have had."
            )
        elif path.is_file():
            rollout = {name: value.to(self.accelerator.device) for name, value in load_file(path).items()}
            if len(rollout["prompt_ids"]) == batches * self.args.per_device_train_batch_size:
                self._buffered_inputs = split_tensor_dict(rollout, batches)
                self._show_again(state["completions"])

    def _show_again(self, table: dict[str, Any]) -> None:
        for name, values in table.items():
            for column, rows in values.items() if isinstance(values, dict) else [(None, values)]:
                (self._logs[name] if column is None else self._logs[name][column]).extend(rows)

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        self._train_sampler = super()._get_train_sampler(dataset)
        return self._train_sampler

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Called whatever the engine, when a run is resumed."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            # TRL's sampler shuffles anew in each epoch, from one seed: it would begin with the first order.
            for _ in range(int(self.state.epoch or 0)):
                next(iter(self._train_sampler or ()), None)
            self.load_own(Path(checkpoint))
            super()._load_rng_state(checkpoint)  # where the run is at its end, the loop, which does it, is not entered

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Called when a resumed run is where it was, with the figures of the training loop at zero."""
        super()._load_rng_state(checkpoint)
        if self._unlogged is not None:
            self._tr_loss += self._unlogged[0]
            self._globalstep_last_logged, self._unlogged = self._unlogged[1], None
