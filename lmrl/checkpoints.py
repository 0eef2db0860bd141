"""The checkpoints in the folder of a run: finding the one to go on from, which must be complete; tidying up."""

import json
import shutil
from pathlib import Path
from typing import Any

from accelerate.logging import get_logger
from safetensors import SafetensorError, safe_open
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from lmrl.outputs import CHECKPOINTS, matching, resume_request
from lmrl.saving import MANIFEST, find_damage, flush_to_disk

logger = get_logger(__name__)

UNFINISHED = "_unfinished"  # in the folder of the run; a name that pushing to the hub leaves out


def find_checkpoint(requested: str | bool | None, output_dir: str | Path, warn: Any = logger.warning) -> str | None:
    """
    Returns the checkpoint to go on from, one that is complete, or None to start from the beginning.

    Args:
        requested (`str` or `bool`, *optional*), output_dir (`str` or `Path`), warn (`Callable`, *optional*):
            What is requested: the folder of a checkpoint; `True` or `"true"` for the newest complete one of the run;
            `"latest"` for the same, or a start from the beginning where there is none, so that one command starts and
            continues a run; `None` for the beginning, with a warning if there are checkpoints. `warn` shows messages.

    Raises:
        ValueError: If the requested checkpoint is damaged, or there is none.
    """
    request = resume_request(requested)
    if request is None:
        if earlier := newest_first(output_dir):
            warn(
                f"{output_dir} has {earlier[0].name} of an earlier run, which stays beside this run's checkpoints. To "
                "continue that run: --resume_from_checkpoint latest. Otherwise delete it, or use another output_dir."
            )
        return None
    is_named = request not in ("true", "latest")
    for checkpoint in requested_checkpoints(requested, output_dir):
        wrong = find_corruption(checkpoint)
        if wrong is None:
            step = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["global_step"]
            warn(f"Training goes on from {checkpoint}, after step {step}.")
            return str(checkpoint)
        if is_named:
            raise ValueError(f"The checkpoint {requested} {wrong}. {_suggest_fallback(checkpoint)}")
        warn(f"The checkpoint {checkpoint} {wrong}. It is passed over for the one before it.")
    if request != "latest":
        raise ValueError(
            f"`resume_from_checkpoint` must name a checkpoint, got {requested}, but {output_dir} has no complete one. "
            "Leave it out to start from the beginning, or give `latest`, which does so if there is none."
        )
    warn(f"{output_dir} has no complete checkpoint yet: training starts from the beginning.")
    return None


def requested_checkpoints(requested: str | bool | None, output_dir: str | Path) -> list[Path]:
    """Returns the checkpoints that a value of `resume_from_checkpoint` may mean, in the order in which they count."""
    request = resume_request(requested)
    if request in ("true", "latest"):
        return newest_first(output_dir)
    return [] if request is None else [Path(request)]


def _suggest_fallback(damaged: Path) -> str:
    siblings = newest_first(damaged.parent)
    older = siblings[siblings.index(damaged) + 1 :] if damaged in siblings else siblings or newest_first(damaged)
    complete = newest_complete(older)
    if complete is None:
        return "There is no complete one before it: leave it out to start from the beginning."
    which = "The one before it" if damaged in siblings and complete == older[0] else "Another one"
    return f"{which} is complete: --resume_from_checkpoint {complete}"


def checkpoint_folder(run_dir: str | Path, step: int) -> Path:
    """Returns the folder that Trainer gives the checkpoint of a step."""
    return Path(run_dir) / f"{PREFIX_CHECKPOINT_DIR}-{step}"


def newest_complete(checkpoints: list[Path]) -> Path | None:
    """Returns the first checkpoint of a list that nothing is wrong with, or None."""
    return next((checkpoint for checkpoint in checkpoints if find_corruption(checkpoint) is None), None)


def newest_first(output_dir: str | Path) -> list[Path]:
    """Returns the checkpoints of a run, last saved first; other tools' come last, in descending order of steps."""
    return sorted((path for path in matching(output_dir, CHECKPOINTS) if path.is_dir()), key=_age, reverse=True)


def _age(checkpoint: Path) -> tuple[float, int]:
    """Returns a sort key, first the time: a run begun anew in a used folder has newer checkpoints of lower steps."""
    listed = checkpoint / MANIFEST
    saved_at = 0.0
    if listed.is_file():
        try:
            saved_at = float(json.loads(listed.read_text(encoding="utf-8"))["saved_at"])
        except (OSError, ValueError, KeyError, TypeError):
            saved_at = listed.stat().st_mtime
    return saved_at, int(checkpoint.name.split("-")[1])


def find_corruption(checkpoint: str | Path) -> str | None:
    """
    Returns what is wrong with a checkpoint, to be read after its name, or None if it is complete.

    Every file is read and compared with the manifest. A checkpoint of another tool has none: it must have weights, an
    optimizer and the state of the trainer, which is written last, and no file of weights may be cut short.
    """
    checkpoint = Path(checkpoint)
    if not checkpoint.is_dir():
        return "is not there"
    return find_damage(checkpoint) or _find_missing(checkpoint)


def _find_missing(checkpoint: Path) -> str | None:
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "is unfinished: trainer_state.json is missing"
    except (OSError, ValueError):
        return "is damaged: trainer_state.json cannot be read"
    names = {path.name for path in checkpoint.iterdir()} | {path.name for path in checkpoint.glob("*/adapter_model*")}
    if not any(name.startswith(("model", "pytorch_model", "adapter_model", "global_step")) for name in names):
        return "has no weights"
    if not any(name.startswith(("optimizer", "global_step")) for name in names):
        return "has no state of the optimizer, so training cannot go on from it (it can be given as a model)"
    for path in checkpoint.glob("*.safetensors"):
        try:
            with safe_open(path, "pt"):  # compares the size with the header
                pass
        except SafetensorError as error:
            return f"is damaged: {path.name} cannot be read ({error})"
    return None


def move_into_place(staged: Path, checkpoint: Path) -> None:
    """
    Moves a complete checkpoint from where it was written to its place. An earlier one of the same name stays until
    then; if the run is killed between the two moves, the next clean-up makes the second.
    """
    if checkpoint.exists():
        _move_to_trash(checkpoint)
    staged.rename(checkpoint)
    flush_to_disk(checkpoint.parent)


def clean_up_unfinished(output_dir: str | Path) -> None:
    """Moves a complete checkpoint that was not moved yet into place, and removes all else that is unfinished."""
    unfinished = Path(output_dir) / UNFINISHED
    for staged in unfinished.glob("checkpoint-*"):
        if (staged / MANIFEST).is_file() and find_corruption(staged) is None:
            move_into_place(staged, unfinished.parent / staged.name)
    shutil.rmtree(unfinished, ignore_errors=True)


def remove_oldest(output_dir: str | Path, limit: int | None, best: str | Path | None = None) -> None:
    """Moves the oldest checkpoints to the trash until `limit` are left; the newest and the best stay, and count."""
    if not limit or limit < 0:
        return
    found = newest_first(output_dir)
    kept = {*found[:1], *([] if best is None else [Path(best)])}
    others = [path for path in found if path not in kept]
    for checkpoint in others[max(limit - len(kept), 0) :]:
        _move_to_trash(checkpoint)


def _move_to_trash(checkpoint: Path) -> None:
    """Moves a checkpoint to where the clean-up removes it: a half-removed one must not look like a checkpoint."""
    trashed = checkpoint.parent / UNFINISHED / f"removed-{checkpoint.name}"
    trashed.parent.mkdir(exist_ok=True)
    checkpoint.rename(trashed)
