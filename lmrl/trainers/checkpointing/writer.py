"""Atomic checkpoint writing."""

from collections.abc import Callable
from pathlib import Path

from transformers import TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from lmrl.checkpoints import (
    UNFINISHED,
    clean_up_unfinished,
    find_checkpoint,
    move_into_place,
    newest_complete,
    newest_first,
    remove_oldest,
)
from lmrl.distributed import rank_and_world_size, run_on_all_ranks
from lmrl.saving import SaveError, save_errors, write_manifest
from lmrl.utils import replaced

Save = Callable[..., None]


class CheckpointWriter:
    """
    Writes checkpoints aside and moves them into place: earlier ones survive a kill or a full disk at any moment.
    Only the process with `should_save` moves and removes folders.
    """

    def __init__(self, should_save: bool, save_total_limit: int | None = None) -> None:
        self.should_save = should_save
        self.save_total_limit = save_total_limit
        self.latest: Path | None = None  # the checkpoint that was last written, or that the run was resumed from
        self.writing: Path | None = None  # the checkpoint that is being written

    def redirect(self, run_dir: str) -> str:
        """Returns the folder in which Trainer makes its `checkpoint-<step>`: aside while one is being written."""
        return str(Path(run_dir) / UNFINISHED) if self.writing else run_dir

    def find(self, requested: str | bool | None, args: TrainingArguments) -> str | None:
        """Cleans up the folder of a run; returns on all processes the checkpoint of [`find_checkpoint`] there."""
        rank, _ = rank_and_world_size()
        wanted = args.resume_from_checkpoint if requested is None else requested

        def _clean_up_and_find() -> str | None:
            if self.should_save:
                clean_up_unfinished(args.output_dir)
            return find_checkpoint(wanted, args.output_dir) if rank == 0 else None

        found = run_on_all_ranks(_clean_up_and_find)
        self.latest = None if found is None else Path(found).resolve()
        return found

    def write(self, checkpoint: Path, save_run_state: Save, save_trainer: Save, state: TrainerState) -> None:
        """
        Writes a checkpoint on all processes: `save_run_state` the state of the run into the folder that it gets,
        `save_trainer` Trainer's part, which has this `state`. If one cannot write, all raise a [`SaveError`].
        """
        staged = checkpoint.parent / UNFINISHED / checkpoint.name
        steps = (
            # 1. All processes write into a folder that nothing takes for a checkpoint: first their own state, then
            #    Trainer's part, where they wait for each other. One that fails before must not leave others waiting.
            lambda: save_run_state(staged),
            lambda: self._stage(staged, checkpoint, save_trainer, state),
            # 2. One process lists the files with their checksums, and moves the folder to its place.
            lambda: self._publish(staged, checkpoint, state),
        )
        try:
            for step in steps:
                run_on_all_ranks(save_errors(checkpoint)(step))
        except SaveError as error:
            complete = newest_complete(newest_first(checkpoint.parent))
            left = f"{complete}, saved before it, is complete." if complete else "No checkpoint was saved before it."
            raise SaveError(f"{error} {left}") from error
        finally:
            # 3. What is unfinished or was moved to the trash is removed.
            if self.should_save:
                clean_up_unfinished(checkpoint.parent)
        self.latest = checkpoint.resolve()

    def write_before_exit(self, checkpoint: Path, save_checkpoint: Save) -> str:
        """Saves the steps that are done when the next one fails, unless they are; returns where, as a sentence."""
        try:
            if checkpoint.resolve() != self.latest:
                save_checkpoint()
        except SaveError as error:
            return str(error)
        return f"The {checkpoint.name.split('-')[1]} steps done so far are kept in {checkpoint}."

    def save_model(self, folder: str, save: Save) -> None:
        """Writes a model; a failure is a [`SaveError`], within a checkpoint on all processes, as they wait there."""
        guarded = save_errors(self.writing or folder)(save)  # each process has its own failure as a SaveError
        if self.writing:
            run_on_all_ranks(guarded)
        else:
            guarded()

    def _stage(self, staged: Path, checkpoint: Path, save_trainer: Save, state: TrainerState) -> None:
        with replaced(self, "writing", checkpoint):
            save_trainer()
        if state.best_model_checkpoint == str(staged):  # Trainer takes this folder for the checkpoint's place
            state.best_model_checkpoint = str(checkpoint)
            if self.should_save:
                state.save_to_json(str(staged / TRAINER_STATE_NAME))

    def _publish(self, staged: Path, checkpoint: Path, state: TrainerState) -> None:
        if self.should_save:
            write_manifest(staged)
            move_into_place(staged, checkpoint)
            remove_oldest(checkpoint.parent, self.save_total_limit, state.best_model_checkpoint)
