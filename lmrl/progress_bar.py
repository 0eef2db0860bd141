"""The progress bar of a training, as lmrl shows it."""

from typing import Any

from transformers import ProgressCallback
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_callback import CallbackHandler

from lmrl.display.curves import PROGRESS


def show_training_progress(handler: CallbackHandler) -> None:
    """Puts [`TrainingProgress`] in the place of the bar of transformers, or of its table of losses in a notebook."""
    bars = [one for one in handler.callbacks if isinstance(one, (ProgressCallback, DEFAULT_PROGRESS_CALLBACK))]
    for bar in bars:
        handler.remove_callback(bar)
    if bars:
        handler.add_callback(TrainingProgress)


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
        values = {shown: logs.get(name) for shown, name in PROGRESS.items()}
        self.newest |= {shown: f"{float(value):.3g}" for shown, value in values.items() if value is not None}
        self.training_bar.set_postfix(self.newest)
