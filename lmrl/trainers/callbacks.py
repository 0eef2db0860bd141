"""What a person sees while training runs."""

from typing import Any

from transformers import ProgressCallback

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
