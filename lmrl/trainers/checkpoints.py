"""Where the checkpoints of a run are: put in place whole or not at all, found by age, the oldest removed."""

import json
import re
import shutil
from pathlib import Path

from accelerate.logging import get_logger

from .manifest import MANIFEST, to_disk, what_is_wrong, write_manifest

logger = get_logger(__name__)

UNFINISHED = "_unfinished"  # in the folder of the run; a name that pushing to the hub leaves out


def find_checkpoint(asked: str | bool | None, output_dir: str | Path) -> str | None:
    """
    Returns the checkpoint to go on from, one that is whole, or None to start from the beginning.

    Args:
        asked (`str` or `bool`, *optional*):
            The folder of a checkpoint; `True` or `"true"` for the newest whole one of the run; `"latest"` for the
            same, or a start from the beginning where there is none yet: one command starts a run and continues it.
        output_dir (`str` or `Path`):
            Folder of the run.

    Raises:
        ValueError: If the checkpoint asked for is damaged, or there is none.
    """
    word = str(asked).lower()
    if asked is None or word in ("", "false", "no", "none"):
        return None
    if word not in ("true", "yes", "latest"):
        if (wrong := what_is_wrong(str(asked))) is not None:
            raise ValueError(f"The checkpoint {asked} {wrong}. {_instead(Path(str(asked)))}")
        return str(asked)
    for checkpoint in newest_first(output_dir):
        if (wrong := what_is_wrong(checkpoint)) is None:
            return str(checkpoint)
        logger.warning(f"The checkpoint {checkpoint} {wrong}. It is passed over for the one before it.")
    if word != "latest":
        raise ValueError(
            f"resume_from_checkpoint={asked}, but {output_dir} has no whole checkpoint to go on from. Leave it out to "
            "start from the beginning, or say `latest`, which starts there where nothing is to be continued."
        )
    logger.warning(f"{output_dir} has no whole checkpoint yet: training starts from the beginning.")
    return None


def _instead(damaged: Path) -> str:
    siblings = newest_first(damaged.parent)
    older = siblings[siblings.index(damaged) + 1 :] if damaged in siblings else siblings or newest_first(damaged)
    whole = newest_whole(older)
    if whole is None:
        return "There is no whole one before it."
    return f"The one before it is whole: --resume_from_checkpoint {whole}"


def newest_whole(checkpoints: list[Path]) -> Path | None:
    """Returns the first that nothing is wrong with, or None."""
    return next((checkpoint for checkpoint in checkpoints if what_is_wrong(checkpoint) is None), None)


def newest_first(output_dir: str | Path) -> list[Path]:
    """Returns the checkpoints of a run by the time they were saved at, those of other tools last, by their steps."""
    found = [path for path in Path(output_dir).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted((path for path in found if path.is_dir()), key=_age, reverse=True)


def _age(checkpoint: Path) -> tuple[float, int]:
    """A run started anew in a used folder has newer checkpoints with smaller numbers."""
    listed, saved_at = checkpoint / MANIFEST, 0.0
    if listed.is_file():
        try:
            saved_at = float(json.loads(listed.read_text(encoding="utf-8"))["saved_at"])
        except (OSError, ValueError, KeyError, TypeError):
            saved_at = listed.stat().st_mtime
    return saved_at, int(checkpoint.name.split("-")[1])


def put_in_place(staged: Path, checkpoint: Path) -> None:
    """
    List the files of a checkpoint, all of which has been written to the run's unfinished folder, and move it to where
    it belongs.

    Killed at any moment, the earlier checkpoints are whole. One of the same name stays until the new one is whole
    too; killed between the two moves, the new one is moved by the next [`tidy`].

    Args:
        staged (`Path`):
            Where it has been written.
        checkpoint (`Path`):
            Where it belongs.
    """
    write_manifest(staged)
    _move(staged, checkpoint)


def _move(staged: Path, checkpoint: Path) -> None:
    if checkpoint.exists():
        _take_away(checkpoint)
    staged.rename(checkpoint)
    to_disk(checkpoint.parent)


def _take_away(checkpoint: Path) -> None:
    """For [`tidy`] to remove: a folder that is half removed must not look like a checkpoint."""
    doomed = checkpoint.parent / UNFINISHED / f"removed-{checkpoint.name}"
    doomed.parent.mkdir(exist_ok=True)
    checkpoint.rename(doomed)


def tidy(output_dir: str | Path) -> None:
    """Put in place the checkpoint that is written but not moved yet, and remove all else that is unfinished."""
    unfinished = Path(output_dir) / UNFINISHED
    for staged in unfinished.glob("checkpoint-*"):
        if (staged / MANIFEST).is_file() and what_is_wrong(staged) is None:
            _move(staged, unfinished.parent / staged.name)
    shutil.rmtree(unfinished, ignore_errors=True)


def rotate(output_dir: str | Path, limit: int | None, best: str | Path | None = None) -> None:
    """
    Take away the oldest checkpoints beyond a number, never the newest nor the best one; [`tidy`] removes them.

    Args:
        output_dir (`str` or `Path`):
            Folder of the run.
        limit (`int`, *optional*):
            How many to keep, the best one included; all by default.
        best (`str` or `Path`, *optional*):
            The best one.
    """
    if not limit or limit < 0:
        return
    found = newest_first(output_dir)
    kept = {*found[:1], *([] if best is None else [Path(best)])}
    for checkpoint in [path for path in found if path not in kept][max(limit - len(kept), 0) :]:
        _take_away(checkpoint)
