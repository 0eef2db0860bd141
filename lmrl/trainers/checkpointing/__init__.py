"""Checkpoints that are complete or not there, and the state of a run beyond what Trainer saves."""

from .arguments import compare_arguments, plain_arguments
from .errors import SaveError, check_writable, save_errors
from .folders import find_checkpoint, newest_first
from .run_state import load_batches, load_run_state, save_run_state
from .sigterm import save_on_sigterm
from .writer import CheckpointWriter

__all__ = [
    "CheckpointWriter",
    "SaveError",
    "check_writable",
    "compare_arguments",
    "find_checkpoint",
    "load_batches",
    "load_run_state",
    "newest_first",
    "plain_arguments",
    "save_errors",
    "save_on_sigterm",
    "save_run_state",
]
