"""A checkpoint that one of two processes cannot write fails on both."""

from pathlib import Path

import forked
from transformers import TrainerState

from lmrl.distributed import rank_and_world_size
from lmrl.saving import SaveError
from lmrl.trainers.checkpointing.writer import CheckpointWriter


def write_with_a_full_disk_on_the_second_rank(folder: str) -> None:
    """Writes a checkpoint; prints the error that this rank gets."""
    from accelerate import PartialState

    PartialState(cpu=True)
    rank, _ = rank_and_world_size()
    writer = CheckpointWriter(should_save=rank == 0)

    def save_run_state(_: Path) -> None:
        if rank == 1:
            raise OSError(28, "No space left on device")

    def save_trainer() -> None:
        writer.save_model(folder, lambda: None)  # as Trainer does, in a meeting of all ranks

    try:
        writer.write(Path(folder, "checkpoint-1"), save_run_state, save_trainer, TrainerState())
    except SaveError as error:
        print(error)


def test_a_rank_that_cannot_write_its_state_stops_all_with_the_same_error(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = tmp_path / "run"
    forked.run(write_with_a_full_disk_on_the_second_rank, str(run), out=out, processes=2)
    for rank in ("0", "1"):
        printed = (out / f"{rank}.txt").read_text()
        assert "checkpoint-1 could not be written: No space left on device" in printed
    assert not (run / "checkpoint-1").exists()
