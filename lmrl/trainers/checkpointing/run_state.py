"""The state of a run beyond Trainer's checkpoints: one file of each process, and its part of the rollout."""

import json
from collections import deque
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerState
from trl import RLOOConfig
from trl.trainer.utils import split_tensor_dict

logger = get_logger(__name__)

STATE_NAME = "lmrl_state.json"
ROLLOUT_NAME = "rollout.safetensors"

# Names that tensors of a rollout had in the first checkpoints of lmrl.
OLD_NAMES = {"old_per_token_logps": "old_log_probs", "ref_per_token_logps": "ref_log_probs"}


def save_run_state(
    folder: Path, state: dict[str, Any], batches: list[dict[str, Tensor]] | None, accelerator: Accelerator
) -> None:
    """
    Writes the state of a process, as JSON can hold it, into a checkpoint: `lmrl_state.json`, of the second process
    `lmrl_state_1.json`; and the batches of a rollout that is not used up yet as `rollout.safetensors`.
    """
    rank = accelerator.process_index
    state = {**state, "num_processes": accelerator.num_processes}
    if batches is not None:
        rollout = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
        save_file(rollout, _rank_file(folder, ROLLOUT_NAME, rank))
    _rank_file(folder, STATE_NAME, rank).write_text(json.dumps(state, indent=2, default=_as_json), encoding="utf-8")


def _as_json(value: Any) -> Any:
    """The columns of TRL's table of completions, in which a reward may log anything."""
    return list(value) if isinstance(value, deque) else str(value)


def load_run_state(folder: Path, rank: int) -> dict[str, Any] | None:
    """
    Returns the state that a process has in a checkpoint, or that of the first if there were fewer processes then.
    In another tool's there is None, and a warning.
    """
    for path in (_rank_file(folder, STATE_NAME, rank), folder / STATE_NAME):
        if path.is_file():
            return dict(json.loads(path.read_text(encoding="utf-8")))
    logger.warning(f"{folder} has no {STATE_NAME}: running averages and an adaptive beta begin anew.")
    return None


def place_in_stream(state: TrainerState, accumulation: int) -> tuple[int, int]:
    """Returns the passes over a stream, and the batches since. Trainer takes each pass to be as long as the run."""
    batches = state.max_steps * accumulation
    return divmod(round((state.epoch or 0) * batches), batches)


def load_batches(
    folder: Path, state: dict[str, Any], args: RLOOConfig, accelerator: Accelerator
) -> list[dict[str, Tensor]] | None:
    """
    Returns the batches of the rollout that a process had begun to train on, or None if there are none to go on with:
    if another number of processes saved the state, with a warning, or if a rollout has another size now.
    """
    saved_by = state.get("num_processes", accelerator.num_processes)
    if saved_by != accelerator.num_processes:
        logger.warning(
            f"{folder} was saved by {saved_by} processes and this run has {accelerator.num_processes}: it goes on, "
            "but not with the random numbers and prompts it would have had."
        )
        return None
    path = _rank_file(folder, ROLLOUT_NAME, accelerator.process_index)
    if not path.is_file():
        return None
    rollout = {OLD_NAMES.get(name, name): tensor.to(accelerator.device) for name, tensor in load_file(path).items()}
    if len(rollout["prompt_ids"]) != args.steps_per_generation * args.per_device_train_batch_size:
        return None
    batches: list[dict[str, Tensor]] = split_tensor_dict(rollout, args.steps_per_generation)
    return batches


def restore_completions(logs: dict[str, Any], saved: dict[str, Any]) -> None:
    """Puts the completions of a rollout back into TRL's table: columns, or groups of columns, by their names."""
    for name, rows in saved.items():
        if isinstance(rows, dict):
            restore_completions(logs[name], rows)
        else:
            logs[name].extend(rows)


def _rank_file(folder: Path, name: str, rank: int) -> Path:
    stem, ending = name.split(".")
    return folder / (f"{stem}_{rank}.{ending}" if rank else name)
