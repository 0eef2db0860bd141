"""What a person, or another program, sees while training runs."""

import json
import math
from pathlib import Path
from typing import Any

from transformers import ProgressCallback, TrainerCallback

LOG_NAME = "log.jsonl"

SHOWN = {
    "reward": "reward",
    "kl": "kl_per_sequence",
    "entropy": "entropy",
    "length": "completions/mean_length",
    "explained": "value/explained_variance",
}


class TrainingProgress(ProgressCallback):
    """The progress bar, with the newest figures behind it; all of them are in the log history and the trackers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.newest: dict[str, str] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Shows the newest figures; prints what evaluation logs, as Trainer does."""
        if not state.is_world_process_zero or self.training_bar is None or logs is None:
            return
        if any(name.startswith("eval_") for name in logs):
            super().on_log(args, state, control, logs=logs, **kwargs)
            return
        values = {shown: logs.get(name) for shown, name in SHOWN.items()}
        self.newest |= {shown: f"{float(value):.3g}" for shown, value in values.items() if value is not None}
        self.training_bar.set_postfix(self.newest)


class LogFile(TrainerCallback):
    """
    The log history as JSON Lines in the output folder, at all times: a line as soon as it is logged, and in a resumed
    run the history of its checkpoint first.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begins the file."""
        if state.is_world_process_zero:
            Path(args.output_dir).mkdir(parents=True, exist_ok=True)
            self._write("w", args, state.log_history)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Adds what was logged."""
        if state.is_world_process_zero and (Path(args.output_dir) / LOG_NAME).is_file():
            self._write("a", args, state.log_history[-1:])

    def _write(self, mode: str, args: Any, rows: list[dict[str, Any]]) -> None:
        with (Path(args.output_dir) / LOG_NAME).open(mode, encoding="utf-8") as stream:
            stream.writelines(json.dumps({name: _as_json(row[name]) for name in row}) + "\n" for row in rows)


def _as_json(value: Any) -> Any:
    """Returns a value as JSON can hold it, which has no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
