"""The measurement of checkpoints: completions, corpus metrics with signatures, intervals, reports."""

from .comparison import Interval, bootstrap_interval, paired_interval
from .evaluate import Evaluation, evaluate_model
from .generation import Completion, generate_completions
from .metrics import Score, score_completions
from .perplexity import perplexity
from .report import as_text, read_json, samples_table, scores_table, show, to_json, write_json
from .summary import report

__all__ = [
    "Completion",
    "Evaluation",
    "Interval",
    "Score",
    "as_text",
    "bootstrap_interval",
    "evaluate_model",
    "generate_completions",
    "paired_interval",
    "perplexity",
    "read_json",
    "report",
    "samples_table",
    "score_completions",
    "scores_table",
    "show",
    "to_json",
    "write_json",
]
