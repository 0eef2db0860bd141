"""Arguments of rewards and of evaluations."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from lmrl.arguments.checks import RewardSpec, check_specs, json_object
from lmrl.arguments.models import CheckpointArguments
from lmrl.arguments.output import OutputArguments
from lmrl.settings import Settings, check_unread
from lmrl.utils import check_at_least, check_in, labelled, option

T = TypeVar("T")


@dataclass
class RewardArguments(Settings):
    """Rewards of a completion. Several are added up, weighted by TRL's `reward_weights`."""

    _argument_group_name = "Rewards"

    rewards: list[RewardSpec] = field(
        default_factory=lambda: ["bleu", "rougeL"],
        metadata={
            "help": 'Rewards by name. With options as JSON: `--rewards bleu \'{"length": {"target": 20}}\'`. In YAML '
            "`- bleu` and `- length: {target: 20}`. Their weights are --reward_weights, in the same order."
        },
    )

    def __post_init__(self) -> None:
        if not self.rewards:
            raise ValueError("`rewards` must have at least one, got none. Add one, for example bleu.")
        check_specs("rewards", self.rewards)


@dataclass
class ScoringArguments(Settings):
    """How held-out rows are completed and scored."""

    _argument_group_name = "Evaluation"
    # Former names, which `lmrl.cli.parse` still accepts with a warning.
    _old_names: ClassVar[dict[str, str]] = {
        "batch_size": "eval_batch_size",
        "do_sample": "eval_do_sample",
        "eval_rows_in_training": "eval_subset",
        "max_new_tokens": "eval_max_new_tokens",
        "metrics": "eval_metrics",
        "num_beams": "eval_num_beams",
        "num_samples_shown": "eval_num_completions_to_print",
        "perplexity_model": "eval_perplexity_model",
        "results_dir": "eval_output_dir",
    }

    eval_metrics: list[RewardSpec] | None = option(
        None,
        "Metrics besides the rewards, written like them. A metric that was not rewarded shows whether the reward was "
        "learned or gamed.",
    )
    primary_metrics: list[str] | None = option(
        None,
        "Metrics to test; the others are exploratory. For example bleu rouge1; p-values are corrected for their "
        "number. Default: the rewards' total and up to five measures of quality that are not trained on.",
    )
    eval_batch_size: int = option(32, "Prompts completed at a time. It affects memory, not results.")
    eval_max_new_tokens: int | None = option(
        None, "Maximum number of tokens of a completion. Default: as in training, or 64."
    )
    eval_do_sample: bool = option(False, "Sample completions instead of greedy decoding.")
    eval_num_beams: int = option(1, "Beams of a beam search; 1 is none.")
    eval_perplexity_model: str | None = option(
        None,
        "Model for the perplexity: folder or hub id. Default: the model that training starts "
        "from, or the first checkpoint.",
    )
    eval_num_completions_to_print: int = option(5, "Completions printed at the end.")
    win_rate: list[RewardSpec] | None = option(
        None,
        "Scores by which wins over the first checkpoint are counted. Rewards by name or as JSON, as for `rewards`, "
        "and metrics; those that are measured anyway cost nothing. For example bleu reward_model.",
    )
    eval_tie_tolerance: float = option(0.0, "Largest difference of two scores that is a tie, with win_rate.")
    eval_output_dir: str | None = option(None, "Folder of the scores and the report. Default: output_dir.")

    def __post_init__(self) -> None:
        check_at_least(1, eval_batch_size=self.eval_batch_size, eval_max_new_tokens=self.eval_max_new_tokens)
        check_at_least(1, eval_num_beams=self.eval_num_beams)
        check_at_least(0, eval_num_completions_to_print=self.eval_num_completions_to_print)
        check_at_least(0, eval_tie_tolerance=self.eval_tie_tolerance)
        check_specs("eval_metrics", self.eval_metrics or [])
        check_specs("win_rate", self.win_rate or [])

    def decoding(self, max_new_tokens: int) -> dict[str, Any]:
        """Returns the options of decoding; `max_new_tokens` is the default for the length."""
        return {
            "max_new_tokens": self.eval_max_new_tokens or max_new_tokens,
            "do_sample": self.eval_do_sample,
            "num_beams": self.eval_num_beams,
            "batch_size": self.eval_batch_size,
        }


@dataclass
class EvaluationArguments(ScoringArguments):
    """How held-out rows are completed and scored, before, during and after training."""

    eval_subset: int = option(100, "Rows scored during training. The first held-out ones; eval_strategy sets when.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, eval_subset=self.eval_subset)


@dataclass
class WarmStartEvaluationArguments(EvaluationArguments):
    """How held-out rows are completed and scored around a supervised warm start."""

    eval_subset: int = option(
        50,
        "Held-out rows that are evaluated, the first ones. Before, after and, with eval_strategy, during training, "
        "where the loss is that of their first references.",
    )
    eval_max_new_tokens: int | None = option(
        None, "Maximum number of tokens of a completion. Default: as many as the longest reference has."
    )
    eval_perplexity_model: str | None = option(
        None, "Model for the perplexity of the completions: folder or hub id. Default: none."
    )


@dataclass
class ComparisonArguments(OutputArguments):
    """Checkpoints and texts that `evaluate_gen.py` compares, and how it samples."""

    _argument_group_name = "Comparison"
    _old_names: ClassVar[dict[str, str]] = {name: f"eval_{name}" for name in ("num_samples", "seed", "temperature")}

    run: str | None = option(
        None,
        "Folder of a run, whose held-out rows, template, metrics, rewards and decoding apply. Its model is compared "
        "before and after; arguments given besides override.",
    )
    checkpoints: list[str] | None = option(
        None,
        "Checkpoints to compare, as `path` or `label=path`. The others are tested against the first. Default: "
        "model_name_or_path alone.",
    )
    outputs: list[str] | None = option(
        None,
        "Texts of other systems to compare with, as `label=file`. A text file with one per line in the order of the "
        'rows, or .jsonl with {"id": ..., "completion": ...}.',
    )
    datasets: list[str] | None = option(
        None, "Several data sets, as `label=path`, written like dataset_name. Default: dataset_name alone."
    )
    compare_with: str | None = option(
        None, "Label of the checkpoint that the others are tested against, or all: every pair. Default: the first."
    )
    eval_num_samples: int = option(1, "Completions per prompt; more than 1 needs eval_do_sample.")
    eval_mbr_metric: str = option(
        "rougeL",
        "Similarity of the minimum-Bayes-risk choice among samples. A reward that compares a text with references, by "
        "name or as JSON; with eval_num_samples.",
    )
    eval_pass_threshold: float | None = option(
        None, "Reward from which on a sample passes, for pass@k. Default: 1, for rewards that are 0 or 1."
    )
    eval_temperature: float = option(1.0, "Temperature of sampling, with eval_do_sample.")
    eval_seed: int = option(42, "Seed of sampling, with eval_do_sample.")
    chat_template_kwargs: dict[str, Any] | str | None = option(
        None, 'Variables of the chat template, as in training. As JSON: {"enable_thinking": false}.'
    )

    def __post_init__(self) -> None:
        check_at_least(1, eval_num_samples=self.eval_num_samples)
        check_specs("eval_mbr_metric", [self.eval_mbr_metric])
        if isinstance(self.chat_template_kwargs, str):
            self.chat_template_kwargs = json_object("chat_template_kwargs", self.chat_template_kwargs)
        if not self.eval_temperature > 0:
            raise ValueError(
                f"`eval_temperature` must be above 0, got {self.eval_temperature}. Greedy decoding is without "
                "`eval_do_sample`."
            )

    def systems(
        self, model_args: CheckpointArguments, eval_args: ScoringArguments, default: Mapping[str, str]
    ) -> tuple[dict[str, str], dict[str, str]]:
        """
        Returns the paths of the checkpoints, and those of the files of texts, each by label.

        Without `checkpoints`, the only checkpoint is the model of `model_args`. Without either, they are those of
        `default` if there is a `run`, or if there are no texts either.

        Raises:
            ValueError: If two of them have the same label, `compare_with` is none of the labels, both a model and
                `checkpoints` are given, or there are only texts and an option of loading or of decoding.
        """
        model = model_args.model_name_or_path
        if self.checkpoints and model:
            raise ValueError(
                f"`model_name_or_path` must not be set with `checkpoints`, got {model!r}: it would not be read. Add "
                "it to them."
            )
        checkpoints = labelled("checkpoints", self.checkpoints or ([model] if model else []))
        if not checkpoints and (self.run or not self.outputs):
            checkpoints = dict(default)
        if not checkpoints:
            check_unread(model_args, ("dtype", "attn_implementation", "load_in_4bit"), "checkpoints")
            check_unread(eval_args, [f"eval_{name}" for name in eval_args.decoding(1)], "checkpoints")
        outputs = labelled("outputs", self.outputs or [], taken=checkpoints)
        check_in([*checkpoints, *outputs, "all"], compare_with=self.compare_with)
        if len(checkpoints) + len(outputs) < 2:
            check_unread(eval_args, ("win_rate",), "checkpoints` and `outputs", "with fewer than two systems in")
        return checkpoints, outputs

    def baseline_first(self, by_label: Mapping[str, T]) -> dict[str, T]:
        """Returns the items in a new order: first that of the label with which the others are compared."""
        labels = sorted(by_label, key=lambda label: label != self.compare_with)
        return {label: by_label[label] for label in labels}

    def sampling(self, do_sample: bool) -> dict[str, Any]:
        """Returns the options of sampling, which must not be given for greedy decoding, and `chat_template_kwargs`."""
        if not do_sample:
            check_unread(self, ("eval_num_samples", "eval_temperature", "eval_seed"), "eval_do_sample")
        sampling = {"num_samples": self.eval_num_samples, "temperature": self.eval_temperature, "seed": self.eval_seed}
        return {**sampling, "chat_template_kwargs": self.chat_template_kwargs}
