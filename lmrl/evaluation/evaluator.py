"""The held-out evaluation of a run, applied to the policy before, during and after training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from lmrl.display.cards import card, reward_lines
from lmrl.display.wording import counted
from lmrl.libraries import Dataset, PreTrainedModel, PreTrainedTokenizerBase, torch
from lmrl.utils import check_at_least

from .evaluate import Evaluation, ModelAndTokenizer, Reward, evaluate_model, measure_completions, score_names
from .generation import Decoding, decoding_text


@dataclass(frozen=True)
class FrozenModels:
    """The models that an evaluation of a policy needs beside it, as [`evaluate_model`] takes them."""

    reference_model: "PreTrainedModel | None" = None
    perplexity_model: ModelAndTokenizer | None = None


@dataclass(frozen=True)
class Evaluator:
    """
    The held-out evaluation of a run: rows, reward functions and decoding, the same for every policy.

        evaluator = Evaluator(tokenizer, rows, Decoding(max_new_tokens=64), reward_funcs=[BLEU()], subset_size=100)
        trainer = PPOTrainer(..., eval_dataset=evaluator.subset, held_out_metrics=evaluator.scores)
        with trainer.gathered_policy() as policy:
            before = evaluator(policy)

    With several processes in `torch.distributed`, all must call it, each with the complete policy.

    Args:
        tokenizer, rows, decoding, reward_funcs, reward_weights, metrics:
            As for [`evaluate_model`]; the rows are a `datasets.Dataset`.
        subset_size (`int`, *optional*):
            Rows to evaluate during training, the first ones; all by default.
        load_frozen_models (`Callable`, *optional*):
            Takes the policy's device and returns [`FrozenModels`]. It is called for each evaluation of all rows, and
            the models are freed afterwards, so that they take no memory during training. Under ZeRO-3 they are loaded
            with all weights only inside `trainer.gathered_policy()`.

    Raises:
        `ValueError`: if `subset_size` is less than 1, a metric is unknown, or rewards have the same name.
    """

    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    rows: Dataset = field(repr=False)
    decoding: Decoding
    _: KW_ONLY
    reward_funcs: Sequence[Reward] = ()
    reward_weights: Mapping[str, float] | None = None
    metrics: Sequence[str] | None = None
    subset_size: int | None = None
    load_frozen_models: "Callable[[torch.device], FrozenModels] | None" = None

    def __post_init__(self) -> None:
        check_at_least(1, subset_size=self.subset_size)
        _ = self.names_in_training  # raises before the first evaluation

    def _repr_html_(self) -> str:
        facts = {
            "data": f"{counted(len(self.rows), 'row')}, {len(self.subset):,} of them during training",
            "decoding": decoding_text(vars(self.decoding)),
            "scores": ", ".join(self.names_in_training),
        }
        tables = {"": reward_lines(self.reward_funcs)} if self.reward_funcs else {}
        return card("Evaluator", facts=facts, tables=tables)

    @property
    def names_in_training(self) -> list[str]:
        """The names of the scores of [`Evaluator.scores`]."""
        return score_names(self.rows, **self._measures)

    @property
    def subset(self) -> Dataset:
        """The rows that are evaluated during training."""
        size = len(self.rows) if self.subset_size is None else min(self.subset_size, len(self.rows))
        return self.rows.select(range(size))

    def __call__(self, policy: PreTrainedModel) -> Evaluation:
        """Returns the evaluation of a policy on all rows, with the scores that need the frozen models."""
        frozen = FrozenModels() if self.load_frozen_models is None else self.load_frozen_models(policy.device)
        return evaluate_model(policy, self.tokenizer, self.rows, self.decoding, **self._measures, **vars(frozen))

    def scores(self, policy: PreTrainedModel) -> dict[str, float]:
        """Returns the scores of a policy on the subset, without frozen models; trainers log them as `eval_*`."""
        return evaluate_model(policy, self.tokenizer, self.subset, self.decoding, **self._measures).values

    def scores_on_subset(self, evaluation: Evaluation) -> dict[str, float]:
        """Returns the scores of [`Evaluator.scores`] from an evaluation of all rows, without generating again."""
        subset = self.subset
        if len(subset) == len(self.rows):
            return {name: evaluation.scores[name].value for name in self.names_in_training}
        completions = [completion for completion in evaluation.completions if completion.row < len(subset)]
        return measure_completions(completions, subset, **self._measures).values

    @property
    def _measures(self) -> dict[str, Any]:
        return {"reward_funcs": self.reward_funcs, "reward_weights": self.reward_weights, "metrics": self.metrics}
