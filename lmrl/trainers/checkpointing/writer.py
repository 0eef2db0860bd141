"""Atomic checkpoint writing."""

import shutil
from collections.abc import Callable
from pathlib import Path

from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from lmrl.distributed import rank_and_world_size, run_on_all_ranks
from lmrl.saving import MANIFEST, SaveError, flush_to_disk, save_errors, write_manifest

from .folders import find_checkpoint, find_corruption, newest_complete, newest_first

UNFINISHED = "_unfinished"  # in the folder of the run; a name that pushing to the hub leaves out


class CheckpointWriter:
    """
    Writes checkpoints aside and moves them into place: a kill or a full disk at any moment leaves those before.

    The process with `should_save` moves and removes folders. `latest` is the checkpoint that was last written, or that
    the run was resumed from.
    """

    def __init__(self, should_save: bool, save_total_limit: int | None = None) -> None:
        self.should_save = should_save
        self.save_total_limit = save_total_limit
        self.latest: Path | None = None
        self._checkpoint: Path | None = None  # the one that is being written

    @property
    def is_writing(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._checkpoint is not None

    def redirect(self, run_dir: str) -> str:
        """Returns the folder in which Trainer makes its `checkpoint-<step>`: aside while one is being written."""
        return str(Path(run_dir) / UNFINISHED) if self.is_writing else run_dir

    def find(self, requested: str | bool | None, output_dir: str) -> str | None:
        """
        Returns the checkpoint to go on from, as [`find_checkpoint`] does, once the folder of the run is cleaned up.

        Raises:
            ValueError: On every process, if there is no such checkpoint, or it is damaged.
        """
        found = run_on_all_ranks(lambda: self._clean_up_and_find(requested, output_dir))
        self.latest = None if found is None else Path(found).resolve()
        return found

    def _clean_up_and_find(self, requested: str | bool | None, output_dir: str) -> str | None:
        if self.should_save:
            clean_up_unfinished(output_dir)
        rank, _ = rank_and_world_size()
        return find_checkpoint(requested, output_dir) if rank == 0 else None

    def write(
        self,
        checkpoint: Path,
        save_run_state: Callable[[Path], None],
        save_trainer: Callable[[], None],
        state: TrainerState,
    ) -> None:
        """
        Writes a checkpoint, from all processes: `save_run_state` the state of the run, into the folder that it is
        given, and `save_trainer` Trainer's part, into that of [`~CheckpointWriter.redirect`]. The state of the trainer
        has the name of the best checkpoint.

        Raises:
            SaveError: On every process, if one of them could not write.
        """
        staged = checkpoint.parent / UNFINISHED / checkpoint.name
        try:
            # 1. All processes write into a folder that nothing takes for a checkpoint: first their own state, then
            #    Trainer's part, in which they meet again. One that fails before must not leave the others there.
            run_on_all_ranks(lambda: self._stage_run_state(staged, checkpoint, save_run_state))
            run_on_all_ranks(lambda: self._stage(staged, checkpoint, save_trainer, state))
            # 2. One process lists the files with their checksums, and moves the folder to its place.
            run_on_all_ranks(lambda: self._publish(staged, checkpoint, state))
        except SaveError as error:
            complete = newest_complete(newest_first(checkpoint.parent))
            left = f"{complete}, saved before it, is complete." if complete else "No checkpoint was saved before it."
            raise SaveError(f"{error} {left}") from error
        finally:
            # 3. What is unfinished or was moved to the trash is removed.
            if self.should_save:
                clean_up_unfinished(checkpoint.parent)
        self.latest = checkpoint.resolve()

    def write_before_exit(self, checkpoint: Path, save_checkpoint: Callable[[], None]) -> str:
        """Saves the steps that are done when the next one fails, unless they are; returns where, as a sentence."""
        try:
            if checkpoint.resolve() != self.latest:
                save_checkpoint()
        except SaveError as error:
            return str(error)
        return f"The {checkpoint.name.split('-')[1]} steps done so far are kept in {checkpoint}."

    def save_model(self, folder: str, save: Callable[[], None]) -> None:
        """
        Writes a model to a folder, within a checkpoint or on its own.

        Raises:
            SaveError: If it cannot be written; within a checkpoint on every process, since all of them meet again.
        """
        guarded = save_errors(self._checkpoint or folder)(save)  # each process has its own failure as a SaveError
        if self.is_writing:
            run_on_all_ranks(guarded)
        else:
            guarded()

    def _stage_run_state(self, staged: Path, checkpoint: Path, save_run_state: Callable[[Path], None]) -> None:
        with save_errors(checkpoint):
            staged.mkdir(parents=True, exist_ok=True)
            save_run_state(staged)

    def _stage(self, staged: Path, checkpoint: Path, save_trainer: Callable[[], None], state: TrainerState) -> None:
        self._checkpoint = checkpoint
        try:
            with save_errors(checkpoint):
                save_trainer()
                if state.best_model_checkpoint == str(staged):  # Trainer takes this folder for the checkpoint's place
                    state.best_model_checkpoint = str(checkpoint)
                    if self.should_save:
                        state.save_to_json(str(staged / TRAINER_STATE_NAME))
        finally:
            self._checkpoint = None

    def _publish(self, staged: Path, checkpoint: Path, state: TrainerState) -> None:
        if self.should_save:
            with save_errors(checkpoint):
                write_manifest(staged)
                _move_into_place(staged, checkpoint)
            remove_oldest(checkpoint.parent, self.save_total_limit, state.best_model_checkpoint)


def _move_into_place(staged: Path, checkpoint: Path) -> None:
    """One of the same name stays until now; killed between the two moves, the next clean-up makes the second."""
    if checkpoint.exists():
        _move_to_trash(checkpoint)
    staged.rename(checkpoint)
    flush_to_disk(checkpoint.parent)


def clean_up_unfinished(output_dir: str | Path) -> None:
    """Moves a complete checkpoint that was not moved yet into place, and removes all else that is unfinished."""
    unfinished = Path(output_dir) / UNFINISHED
    for staged in unfinished.glob("checkpoint-*"):
        if (staged / MANIFEST).is_file() and find_corruption(staged) is None:
            _move_into_place(staged, unfinished.parent / staged.name)
    shutil.rmtree(unfinished, ignore_errors=True)


def remove_oldest(output_dir: str | Path, limit: int | None, best: str | Path | None = None) -> None:
    """Moves the oldest checkpoints beyond a limit to the trash, never the newest nor the best one, which count."""
    if not limit or limit < 0:
        return
    found = newest_first(output_dir)
    kept = {*found[:1], *([] if best is None else [Path(best)])}
    others = [path for path in found if path not in kept]
    for checkpoint in others[max(limit - len(kept), 0) :]:
        _move_to_trash(checkpoint)


def _move_to_trash(checkpoint: Path) -> None:
    """Moves a checkpoint to where the clean-up removes it: one half removed must not look like a checkpoint."""
    trashed = checkpoint.parent / UNFINISHED / f"removed-{checkpoint.name}"
    trashed.parent.mkdir(exist_ok=True)
    checkpoint.rename(trashed)
