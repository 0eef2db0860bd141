"""Checkpoints that are complete or not there, and the state of a run beyond what Trainer saves."""

from .arguments import compare_arguments, plain_arguments
from .folders import find_checkpoint, newest_first
from .run_state import load_batches, load_run_state, place_in_stream, restore_completions, save_run_state
from .sigterm import save_on_sigterm
from .writer import CheckpointWriter

__all__ = [
    "CheckpointWriter",
    "compare_arguments",
    "find_checkpoint",
    "load_batches",
    "load_run_state",
    "newest_first",
    "place_in_stream",
    "plain_arguments",
    "restore_completions",
    "save_on_sigterm",
    "save_run_state",
]
