"""The end of a recipe: one-line errors with an exit status, and the shutdown of a distributed run."""

import io
import logging
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from .interruption import PARSED, interruption_message

# Seconds within which a launcher ends the other processes once one has ended.
_LAUNCHER_GRACE_SECONDS = 5.0

# Parts of the messages of gloo and NCCL when another process has ended or does not respond.
_PEER_FAILURE_PATTERNS = (
    "Broken pipe",
    "Connection closed by peer",
    "Connection refused",
    "Connection reset by peer",
    "NCCL communicator was aborted",
    "Socket Timeout",
    "Timed out waiting",
    "remote process exited",
    "timed out",
)

_DAMAGED_FILE_ERRORS = ("SafetensorError", "UnpicklingError")


def run(main: Callable[[], object]) -> None:
    """
    Calls the `main` of a recipe, and exits with one line if an argument, a file or the environment is wrong.

    `LMRL_DEBUG=1` also prints the traceback. Of several processes that stop for the same reason only one prints.

    Args:
        main (`Callable`):
            Function to call. Its `ValueError`, `OSError`, missing library or dead peer process becomes `error: ...`
            and exit status 2. Ctrl-C prints the command that continues the run, with exit status 130.
    """
    # TRL 1.16 still uses names that transformers 5.23 deprecates, which nobody who runs a recipe can change.
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated", category=FutureWarning)
    quieten_libraries()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal in cp1252 or ASCII prints `?` for what it lacks
    PARSED.clear()
    try:
        main()
        _shutdown_process_group()
    except SystemExit:  # a run stopped by a signal ends like this, all processes after the same step
        _shutdown_process_group()
        raise
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            _close_progress_bars()
            print(interruption_message(PARSED), file=sys.stderr)
        _exit(130)
    except Exception as error:
        _end_with(error)


class _Formatter(logging.Formatter):
    """Formats warnings without the rank that accelerate puts in front, as only the first process logs them."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the text of a warning."""
        return super().format(record).removeprefix("[RANK 0] ")


def quieten_libraries() -> None:
    """Formats warnings as plain sentences, and turns off transformers' progress bar for loading a model."""
    # Python's own form shows a line of lmrl's source, which helps nobody who runs a recipe.
    warnings.formatwarning = lambda message, *args, **kwargs: f"warning: {message}\n"
    if logging.lastResort is not None:  # the handler for loggers without one
        logging.lastResort.setFormatter(_Formatter())
    transformers_logging: Any = sys.modules.get("transformers.utils.logging")
    if transformers_logging is not None:  # other modules make the bars of training and downloads
        transformers_logging.set_tqdm_hook(lambda bar, args, kwargs: bar(*args, **{**kwargs, "disable": True}))


def _close_progress_bars() -> None:
    """Closes progress bars, which would otherwise be drawn again below the message."""
    library: Any = sys.modules.get("tqdm")
    for bar in list(getattr(getattr(library, "tqdm", None), "_instances", ())):
        bar.close()


def _has_process_group() -> bool:
    """Returns whether there is one. A gloo thread that frees a tensor while Python exits aborts the process."""
    distributed: Any = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def _shutdown_process_group() -> None:
    """Destroys the process group, with its threads."""
    if _has_process_group():
        # Time for a thread to get the interpreter's lock, which it cannot get any more once Python exits.
        time.sleep(0.2)
        sys.modules["torch.distributed"].destroy_process_group()


def _exit(status: int) -> NoReturn:
    """Exits. A process group cannot be destroyed while another process hangs, but Python's own end can be skipped."""
    if not _has_process_group():
        sys.exit(status)
    sys.stdout.flush()  # stderr is written line by line
    os._exit(status)


def _end_with(error: Exception) -> NoReturn:
    """Prints an error in one line, or a bug with its traceback, and exits with status 2 or 1."""
    message = _error_message(error)
    if message is None and not _has_process_group():
        raise error
    if message is None or os.environ.get("LMRL_DEBUG") == "1":
        sys.excepthook(type(error), error, error.__traceback__)
    if message is None:
        _exit(1)
    _print_error(message)
    _exit(2)


def _error_message(error: Exception) -> str | None:
    """Returns the message to print for an error; `None` for a bug, which Python prints with its traceback."""
    text = " ".join(str(error).split())
    if os.environ.get("WORLD_SIZE", "1") != "1" and any(pattern in text for pattern in _PEER_FAILURE_PATTERNS):
        return (
            f"Another process of this run has ended or does not respond ({text.rstrip('.')}). Its own output has the "
            "reason; a process that was killed wrote none, most often for lack of memory. Run the same command with "
            "--resume_from_checkpoint to continue from the newest checkpoint."
        )
    if type(error).__name__ in _DAMAGED_FILE_ERRORS or "PytorchStreamReader failed" in text:
        return f"A file of weights or of a training state is damaged ({text.rstrip('.')}). Use another checkpoint."
    if type(error).__module__.startswith("jinja2"):
        if _is_of_lmrl(error):
            return None
        return f"A chat template does not accept the messages of a row ({text.rstrip('.')}). Change either of them."
    if _is_wrong_option(error):
        return (
            f"A library got an option that it does not take ({text}). Check the arguments that are JSON objects, "
            "which are passed on as they are; LMRL_DEBUG=1 shows where."
        )
    # For a tracker that is not installed transformers 5.23 raises a RuntimeError.
    is_missing = isinstance(error, RuntimeError) and "to be installed" in text
    if not isinstance(error, (ValueError, OSError, ImportError)) and not is_missing:
        return None
    return text or f"{type(error).__name__} without a message. LMRL_DEBUG=1 shows where."


def _is_of_lmrl(error: Exception) -> bool:
    """Returns whether a template of lmrl's charts, pages or cards failed, which is a bug, and not a chat template."""
    own = Path(__file__).parents[1] / "display" / "templating.py"
    return any(Path(frame.filename) == own for frame in traceback.extract_tb(error.__traceback__))


def _is_wrong_option(error: Exception) -> bool:
    """Returns whether a library called its own function with a user's option; a wrong call by lmrl is a bug."""
    if not isinstance(error, TypeError) or "unexpected keyword argument" not in str(error):
        return False
    caller = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    installed = not {"site-packages", "dist-packages"}.isdisjoint(caller.parts)
    return installed and not caller.is_relative_to(Path(__file__).parents[1])


def _print_error(message: str) -> None:
    """Prints an error on the first process; on another process only if the first has not ended meanwhile."""
    line = f"error: {message}"
    rank = os.environ.get("RANK", "0")
    if rank != "0":
        # The launcher sends SIGTERM once the first process has ended; this process may then die at once.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(_LAUNCHER_GRACE_SECONDS)
        line = f"process {rank}: {line}"
    print(line, file=sys.stderr, flush=True)
