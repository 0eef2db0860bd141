"""The state of a run beyond Trainer's checkpoints: a file of each process, its part of the rollout, the arguments."""

import json
from collections import deque
from pathlib import Path
from typing import Any

import torch
from accelerate.logging import get_logger
from accelerate.utils import is_peft_model
from datasets import IterableDataset
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerState
from trl import RLOOConfig
from trl.trainer.utils import split_tensor_dict

from lmrl.checkpoints import requested_checkpoints
from lmrl.settings import without_secrets

logger = get_logger(__name__)

STATE_NAME = "lmrl_state.json"
ROLLOUT_NAME = "rollout.safetensors"

# Names that tensors of a rollout had in the first checkpoints of lmrl.
OLD_NAMES = {"old_per_token_logps": "old_log_probs", "ref_per_token_logps": "ref_log_probs"}

# Arguments whose values are loaded with the optimizer: a resumed run goes on with those of the checkpoint.
KEPT = ("learning_rate", "critic_learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon")
# Arguments that may not change: saved states depend on the optimizer and the critic, saved weights on the adapter.
ADAPTER = ("peft_type", "r", "lora_alpha", "target_modules", "modules_to_save", "bias", "use_dora", "use_rslora")
FIXED = ("optim", "critic", *ADAPTER)
# Where and how a run is shown: not compared.
IGNORED = ("output_dir", "run_name", "resume_from_checkpoint", "report_to", "disable_tqdm")


def save_run_state(
    folder: Path,
    state: dict[str, Any],
    batches: list[dict[str, Tensor]] | None,
    completions: dict[str, Any],
    args: RLOOConfig,
    model: Any,
) -> None:
    """
    Writes the state of this process into a new checkpoint: `lmrl_state.json`, for the second process
    `lmrl_state_1.json`, with TRL's table of a rollout that is not used up, and its batches: `rollout.safetensors`.
    """
    arguments = _plain_arguments(args, model)
    state = {**state, "completions": completions, "arguments": arguments, "num_processes": args.world_size}
    folder.mkdir(parents=True, exist_ok=True)
    if batches is not None:
        rollout = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
        save_file(rollout, _rank_file(folder, ROLLOUT_NAME, args.process_index))
    # A reward may log values of any type as a column of TRL's table of completions.
    plain = json.dumps(state, indent=2, default=lambda v: list(v) if isinstance(v, deque) else str(v))
    _rank_file(folder, STATE_NAME, args.process_index).write_text(plain, encoding="utf-8")


def load_run_state(checkpoint: str | None, args: RLOOConfig, model: Any) -> dict[str, Any] | None:
    """
    Returns the state of this process from a checkpoint, or that of the first process if there were fewer then. None
    without a checkpoint, and, with a warning, for one of another tool.

    A warning lists the arguments that differ from the saved ones; of those in `KEPT` the saved values are written into
    `args`. A `ValueError` if one of those in `FIXED` differs.
    """
    if checkpoint is None:
        return None
    folder = Path(checkpoint)
    for path in (_rank_file(folder, STATE_NAME, args.process_index), folder / STATE_NAME):
        if path.is_file():
            state = dict(json.loads(path.read_text(encoding="utf-8")))
            _compare_arguments(checkpoint, state.get("arguments", {}), args, model)
            return state
    logger.warning(f"{folder} has no {STATE_NAME}: running averages and an adaptive beta begin anew.")
    return None


def _plain_arguments(args: RLOOConfig, model: Any) -> dict[str, Any]:
    """Returns the arguments of a run, with those of its policy's adapter, as values of JSON."""
    config = model.active_peft_config.to_dict() if is_peft_model(model) else {}
    adapter = {name: config.get(name) for name in ADAPTER}
    plain = json.dumps({**args.to_dict(), **adapter}, default=lambda v: sorted(v) if isinstance(v, set) else str(v))
    return dict(json.loads(plain))


def check_resumable(args: RLOOConfig, model: Any) -> None:
    """Raises the error of [`load_run_state`] for the checkpoint that the arguments name, before anything slow."""
    for checkpoint in requested_checkpoints(args.resume_from_checkpoint, args.output_dir)[:1]:
        try:
            saved = json.loads((checkpoint / STATE_NAME).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # damaged, or of another tool: training finds out
            continue
        _changed_arguments(str(checkpoint), saved.get("arguments", {}), args, model)


def _changed_arguments(checkpoint: str, saved: dict[str, Any], args: RLOOConfig, model: Any) -> dict[str, Any]:
    """Returns the saved and the given value of each argument that has changed; raises an error if it must not."""
    given = without_secrets(_plain_arguments(args, model))
    if saved:
        saved = {"critic": None, **without_secrets(saved)}  # the first checkpoints had secrets
    compared = [name for name in given if name in saved and name not in IGNORED]
    changed = {name: (saved[name], given[name]) for name in compared if saved[name] != given[name]}
    for name, (before, now) in changed.items():
        if name in FIXED or (name, now) == ("baseline", "critic"):
            raise ValueError(
                f"`{name}` must be {before!r}, that of {checkpoint}, got {now!r}. Resume with it, or start anew from "
                "the checkpoint as the model."
            )
    return changed


def _compare_arguments(checkpoint: str, saved: dict[str, Any], args: RLOOConfig, model: Any) -> None:
    changed = _changed_arguments(checkpoint, saved, args, model)
    for name in KEPT:
        if name in changed:
            setattr(args, name, changed[name][0])
    kept = [f"{name}={before} (not {now})" for name, (before, now) in changed.items() if name in KEPT]
    taken = [f"{name}={now} (was {before})" for name, (before, now) in changed.items() if name not in KEPT]
    if changed:
        logger.warning(
            f"{checkpoint} was saved with other arguments. Kept, as the state of its optimizer has them: "
            f"{', '.join(kept) or 'none'}. Taken: {', '.join(taken) or 'none'}."
        )


def progress(
    batch: int, loss: Tensor, last_logged: int, state: TrainerState, args: RLOOConfig
) -> dict[str, int | float | tuple[int, int]]:
    """
    Returns how far a run is: the number of batches, the loss since the last logged step, and, for a stream of rows,
    the finished passes and the batches since. Trainer's epochs take a pass over a stream to be as long as the run.
    """
    batches = state.max_steps * args.gradient_accumulation_steps
    stream = divmod(round((state.epoch or 0) * batches), batches)
    return {"step": batch, "loss": float(loss), "last_logged": last_logged, "stream": stream}


def resumed_step(state: dict[str, Any], trainer_state: TrainerState, args: RLOOConfig) -> int:
    """Returns the batches so far; if a step now takes another number of them, as if it always had: rollouts fit."""
    accumulated = state.get("arguments", {}).get("gradient_accumulation_steps", args.gradient_accumulation_steps)
    if accumulated == args.gradient_accumulation_steps:
        return int(state["step"])
    return trainer_state.global_step * args.gradient_accumulation_steps


def resumed_place(
    state: dict[str, Any] | None, dataset: Any, args: RLOOConfig, place: tuple[int, int]
) -> tuple[int, int]:
    """Returns the epoch and the batch in it to go on from: Trainer's `place`, or for a stream the saved one."""
    is_stream = isinstance(dataset, IterableDataset) and not args.ignore_data_skip
    return (state or {}).get("stream", place) if is_stream else place


def pass_epochs(sampler: Any, state: TrainerState) -> None:
    """Starts a sampler once per finished epoch: TRL's shuffles anew each time, and would repeat the first order."""
    for _ in range(int(state.epoch or 0)):
        next(iter(sampler or ()), None)


def load_rollout(
    checkpoint: str, state: dict[str, Any], logs: Any, args: RLOOConfig
) -> list[dict[str, Tensor]] | None:
    """
    Returns the batches of the rollout that this process had begun to train on, and puts its completions back into
    TRL's logs. None if there is none or one of another size, and, with a warning, for another number of processes.
    """
    saved_by = state.get("num_processes", args.world_size)
    if saved_by != args.world_size:
        logger.warning(
            f"{checkpoint} was saved by {saved_by} processes and this run has {args.world_size}: it goes on, "
            "but not with the random numbers and prompts it would have had."
        )
        return None
    path = _rank_file(Path(checkpoint), ROLLOUT_NAME, args.process_index)
    if not path.is_file():
        return None
    rollout = {OLD_NAMES.get(name, name): tensor.to(args.device) for name, tensor in load_file(path).items()}
    if len(rollout["prompt_ids"]) != args.steps_per_generation * args.per_device_train_batch_size:
        return None
    _restore_completions(logs, state["completions"])
    return split_tensor_dict(rollout, args.steps_per_generation)


def _restore_completions(logs: Any, saved: dict[str, Any]) -> None:
    """Puts saved columns back into the logs by name; a name may also stand for a group of columns."""
    for name, rows in saved.items():
        if isinstance(rows, dict):
            _restore_completions(logs[name], rows)
        else:
            logs[name].extend(rows)


def _rank_file(folder: Path, name: str, rank: int) -> Path:
    stem, ending = name.split(".")
    return folder / (f"{stem}_{rank}.{ending}" if rank else name)
