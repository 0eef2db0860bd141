"""
Arguments of the recipes, on the command line or in a YAML file.

The `help` of each field is printed by `--help`, where its first sentence must stand alone.
"""

from lmrl.arguments.data import (
    DataArguments,
    EvalRowArguments,
    HeldOutArguments,
    LabelArguments,
    PreferenceArguments,
    RowArguments,
)
from lmrl.arguments.evaluation import (
    ComparisonArguments,
    EvaluationArguments,
    RewardArguments,
    ScoringArguments,
    WarmStartEvaluationArguments,
)
from lmrl.arguments.models import CheckpointArguments, ClassifierArguments, ModelArguments
from lmrl.arguments.output import OutputArguments

__all__ = [
    "CheckpointArguments",
    "ClassifierArguments",
    "ComparisonArguments",
    "DataArguments",
    "EvalRowArguments",
    "EvaluationArguments",
    "HeldOutArguments",
    "LabelArguments",
    "ModelArguments",
    "OutputArguments",
    "PreferenceArguments",
    "RewardArguments",
    "RowArguments",
    "ScoringArguments",
    "WarmStartEvaluationArguments",
]
