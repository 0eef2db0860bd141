"""Training that can be stopped at any moment: whole checkpoints, and what happens when a run ends before its end."""

from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from lmrl.distributed import run_on_all_ranks

from .checkpoints import UNFINISHED, find_checkpoint, newest_first, newest_whole, put_in_place, rotate, tidy
from .scoring import RewardError
from .state import ResumableTrainer
from .stopping import saved_on_sigterm
from .writing import SaveError, check_writable, told_of


class SavingTrainer(ResumableTrainer):
    """
    RLOO whose run may end at any moment.

    A checkpoint is written aside by all processes and moved when it is whole, so that a kill or a full disk leaves
    those before it. On SIGTERM, and when a reward fails, the steps that are done are saved. `train` goes on from a
    checkpoint that is whole, or says what is wrong with it.
    """

    model_card: str | None = None
    _writing: Path | None = None  # the checkpoint that is being written, aside
    _kept: Path | None = None  # the checkpoint that has just this state

    def __init__(self, model: Any, reward_funcs: Any, args: Any, *rest: Any, **kwargs: Any) -> None:
        if args.should_save:
            check_writable(args.output_dir)
        super().__init__(model, reward_funcs, args, *rest, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        checkpoint = Path(self._get_output_dir(trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        staged = checkpoint.parent / UNFINISHED / checkpoint.name
        try:
            run_on_all_ranks(lambda: self._write(staged, checkpoint, model, trial))
            run_on_all_ranks(lambda: self._publish(staged, checkpoint))
        except SaveError as error:
            whole = newest_whole(newest_first(checkpoint.parent))
            left = "No checkpoint was saved before it." if whole is None else f"{whole}, saved before it, is whole."
            raise SaveError(f"{error} {left}") from error
        finally:
            if self.args.should_save:
                tidy(checkpoint.parent)
        self._kept = checkpoint.resolve()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(checkpoint))

    def _write(self, staged: Path, checkpoint: Path, model: Any, trial: Any) -> None:
        """Trainer writes to `_get_output_dir`, removes what is old there, and takes that for the place of the best."""
        self._writing = checkpoint
        try:
            with told_of(checkpoint):
                staged.mkdir(parents=True, exist_ok=True)
                self.save_own(staged)
                super()._save_checkpoint(model, trial)
                if self.state.best_model_checkpoint == str(staged):
                    self.state.best_model_checkpoint = str(checkpoint)
                    if self.args.should_save:
                        self.state.save_to_json(str(staged / TRAINER_STATE_NAME))
        finally:
            self._writing = None

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return str(Path(folder) / UNFINISHED) if self._writing else folder

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes TRL's draft of a model card, or `model_card` once there is one, which is then pushed, too."""
        if self.model_card is None:
            super().create_model_card(*args, **kwargs)
        elif self.is_world_process_zero():
            (Path(self.args.output_dir) / "README.md").write_text(self.model_card, encoding="utf-8")

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self._writing is None:  # it uploads while training goes on
            super()._push_from_checkpoint(checkpoint_folder)

    def _publish(self, staged: Path, checkpoint: Path) -> None:
        if self.args.should_save:
            with told_of(checkpoint):
                put_in_place(staged, checkpoint)
            rotate(checkpoint.parent, self.args.save_total_limit, self.state.best_model_checkpoint)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes the model as Trainer does. Within a checkpoint all processes fail if one does: they meet again."""

        def _told() -> None:
            with told_of(self._writing or output_dir or self.args.output_dir):
                super(SavingTrainer, self).save_model(output_dir, _internal_call)

        run_on_all_ranks(_told) if self._writing else _told()

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """
        Returns what `Trainer.train` returns.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*):
                As in [`find_checkpoint`].
            *args, **kwargs:
                The further arguments of `Trainer.train`.

        Raises:
            ValueError: If there is no such checkpoint, or it is damaged.
            RewardError: If a reward fails; the steps done so far are saved before.
            SaveError: If a checkpoint cannot be written; those before it are whole.
            Terminated: If the run got SIGTERM; it is saved.
        """
        checkpoint = run_on_all_ranks(lambda: self._find(resume_from_checkpoint))
        self._kept = None if checkpoint is None else Path(checkpoint).resolve()
        with saved_on_sigterm(self):
            try:
                return super().train(checkpoint, *args, **kwargs)
            except RewardError as error:
                if self.state.global_step == 0:
                    raise
                raise RewardError(f"{error} {self._keep()}") from error

    def _find(self, asked: str | bool | None) -> str | None:
        if self.args.should_save:
            tidy(self.args.output_dir)
        return find_checkpoint(asked, self.args.output_dir) if self.is_world_process_zero() else None

    def _keep(self) -> str:
        """Save the steps that are done when the next one fails; returns where, in a sentence."""
        failed_at, done = self._step, self.state.global_step
        self._step -= self._step % self.args.gradient_accumulation_steps
        if self._step < failed_at - self._rollout_steps:
            self._buffered_inputs = None  # of a later rollout than the step began in
        checkpoint = Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{done}"
        try:
            if checkpoint.resolve() != self._kept:
                self._save_checkpoint(self.model, trial=None)
        except SaveError as error:
            return str(error)
        return f"The {done} steps done so far are kept in {checkpoint}."

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self.state.global_step >= self.state.max_steps:  # resumed at its end: Trainer would train one more step
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)
