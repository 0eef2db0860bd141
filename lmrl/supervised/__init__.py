"""What the recipes of warm starts and of learned rewards share."""

from lmrl.supervised.classifiers import load_trainable_classifier
from lmrl.supervised.configs import RecipeConfig, WarmStartConfig, check_defaults
from lmrl.supervised.forward import add_supervised_forward
from lmrl.supervised.learned import evaluate_labels, evaluate_pairs
from lmrl.supervised.reports import save_classifier, save_reward_model, save_warm_start
from lmrl.supervised.steps import check_tokenized, load_reward_model, prepare_step, smallest_limit
from lmrl.supervised.warm_start import evaluate_supervised, first_references, make_supervised_evaluator

__all__ = [
    "RecipeConfig",
    "WarmStartConfig",
    "add_supervised_forward",
    "check_defaults",
    "check_tokenized",
    "evaluate_labels",
    "evaluate_pairs",
    "evaluate_supervised",
    "first_references",
    "load_reward_model",
    "load_trainable_classifier",
    "make_supervised_evaluator",
    "prepare_step",
    "save_classifier",
    "save_reward_model",
    "save_warm_start",
    "smallest_limit",
]
