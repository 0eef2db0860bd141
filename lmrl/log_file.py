"""The callback that writes the log and the rollouts of a run while it trains."""

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from lmrl.rollouts import LOG_NAME, RolloutFile, as_lines, drop_after


class LogFile(TrainerCallback):
    """
    Keeps the log history as JSON Lines in the output folder: each line is written as soon as it is logged, in a
    resumed run after the history of its checkpoint. The same for rollouts, where the trainer has any.

    Args:
        rollout (`dict`, *optional*):
            Columns of the newest rollout, which the trainer fills and this callback empties after the step.
    """

    def __init__(self, rollout: dict[str, Any] | None = None) -> None:
        self.rollout = {} if rollout is None else rollout

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begins the files."""
        completions = getattr(args, "rollouts_to_save", 0) * getattr(args, "num_generations", 0)
        self.rollouts = RolloutFile(args.output_dir, completions)
        if state.is_world_process_zero:
            Path(args.output_dir).mkdir(parents=True, exist_ok=True)
            self._write("w", args, state.log_history)
            drop_after(args.output_dir, state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Adds what was logged."""
        if state.is_world_process_zero and (Path(args.output_dir) / LOG_NAME).is_file():
            self._write("a", args, state.log_history[-1:])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Adds the newest rollout after the first step that was made with it."""
        if self.rollout and state.is_world_process_zero:
            self.rollouts.add(state.global_step, state.logging_steps, self.rollout)
        self.rollout.clear()

    def _write(self, mode: str, args: Any, rows: list[dict[str, Any]]) -> None:
        with (Path(args.output_dir) / LOG_NAME).open(f"{mode}b") as stream:
            stream.write(as_lines(rows))
