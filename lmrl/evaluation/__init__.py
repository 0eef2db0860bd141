"""Evaluation of checkpoints: completions, corpus metrics with signatures, intervals, reports."""

from lmrl.display.charts import scatter
from lmrl.rollouts import read_log

from .comparison import (
    Comparisons,
    Difference,
    Interval,
    bootstrap_interval,
    compare,
    compare_all,
    compare_pairs,
    holm,
)
from .evaluate import Evaluation, evaluate_model, measure_completions
from .evaluator import Evaluator, FrozenModels
from .generation import Completion, Decoding, generate_completions
from .likelihood import divergence, perplexity
from .metrics import higher_is_better, score_completions
from .outputs import read_outputs
from .reporting.card import write_card
from .reporting.findings import Findings, find_warnings
from .reporting.page import write_page
from .reporting.report import FACTS_FILE, report
from .reporting.samples import SideBySide
from .reporting.serialization import read_json, to_json, write_json
from .reporting.tables import as_text, samples_table, scores_table, show
from .roles import compare_evaluations
from .scores import Corpus, Score
from .store import CompletionStore

__all__ = [
    "FACTS_FILE",
    "Comparisons",
    "Completion",
    "CompletionStore",
    "Corpus",
    "Decoding",
    "Difference",
    "Evaluation",
    "Evaluator",
    "Findings",
    "FrozenModels",
    "Interval",
    "Score",
    "SideBySide",
    "as_text",
    "bootstrap_interval",
    "compare",
    "compare_all",
    "compare_evaluations",
    "compare_pairs",
    "divergence",
    "evaluate_model",
    "find_warnings",
    "generate_completions",
    "higher_is_better",
    "holm",
    "measure_completions",
    "perplexity",
    "read_json",
    "read_log",
    "read_outputs",
    "report",
    "samples_table",
    "scatter",
    "score_completions",
    "scores_table",
    "show",
    "to_json",
    "write_card",
    "write_json",
    "write_page",
]
