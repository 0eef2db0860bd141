"""The evaluation of the policy before and after training, which logs its scores, also to the trackers."""

from collections.abc import Mapping
from typing import Any

from transformers import ProgressCallback, Trainer, TrainerCallback

from lmrl.evaluation import Evaluation, Evaluator


def evaluate(trainer: Any, evaluator: Evaluator) -> Evaluation:
    """
    Returns the evaluation of the policy of a [`~lmrl.trainers.PolicyGradientTrainer`] on all held-out rows, and logs
    its scores under the names of evaluations during training (`eval_bleu`): before it at step 0, after it at its end.

    If only a subset of the rows is evaluated during training, the logged scores are those of the subset, so that a
    curve is of the same rows at each step. All processes must call it.
    """
    with trainer.gathered_policy() as policy:
        evaluation = evaluator(policy)
    scores = evaluation.values
    if trainer.args.eval_strategy != "no":
        scores = scores | evaluator.scores_on_subset(evaluation)
    log_scores(trainer, scores)
    return evaluation


def log_scores(trainer: Any, scores: Mapping[str, float]) -> None:
    """Logs held-out scores under the names of evaluations during training; before training, once it begins."""
    named = {f"eval_{name}": value for name, value in scores.items()}
    if trainer.state.global_step:
        _log(trainer, named)
        return
    # Before the progress bar's callback, which would print the scores, and after those that write the log.
    callbacks = trainer.callback_handler.callbacks
    bars = [place for place, each in enumerate(callbacks) if isinstance(each, ProgressCallback)]
    callbacks.insert(bars[0] if bars else len(callbacks), _ScoresAtStart(trainer, named))


class _ScoresAtStart(TrainerCallback):
    """Logs scores once the trackers have started, unless the run is resumed from a checkpoint, whose log has them."""

    def __init__(self, trainer: Any, scores: dict[str, float]) -> None:
        self.trainer = trainer
        self.scores = scores

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Logs the scores at step 0."""
        if state.global_step == 0:
            _log(self.trainer, self.scores)


def _log(trainer: Any, scores: dict[str, float]) -> None:
    Trainer.log(trainer, dict(scores))  # not TRL's `log`, which adds the averages of a rollout
