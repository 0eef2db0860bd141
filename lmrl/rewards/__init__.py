"""Rewards of text: objects called as `reward(prompts=..., completions=..., **columns)`.

They are entries of `reward_funcs` of any TRL trainer, and metrics of evaluation. A library is imported only when a
reward that needs it is made. To add a reward: write its class in a module, import it here, and give it a row here.
"""

import functools

from .algebra import Combined, Product, Reward, Scaled, Weighted
from .base import call_reward, completion_text, reward_name
from .bertscore import BERTScore
from .bleu import BLEU, GLEU
from .chrf import ChrF
from .classifier import Classifier
from .corpus import NIST, CIDErD
from .fluency import Fluency
from .hub import EvaluateMetric
from .meteor import METEOR
from .normalize import Normalized
from .references import ReferenceReward
from .reward_model import RewardModel
from .rouge import Rouge
from .similarity import EditSimilarity, ExactMatch, TokenF1
from .slow import Cached, InWorkers, Retried
from .specs import REWARDS, make_reward, make_rewards
from .ter import TER
from .text import DistinctN, Format, Keywords, Length, LengthPenalty, SlotCoverage
from .transform import Clipped, Gate, Minimum, Threshold

REWARDS.update(
    {
        "bleu": BLEU,
        "chrf": ChrF,
        **{name: functools.partial(Rouge, name) for name in ("rouge1", "rouge2", "rougeL", "rougeLsum")},
        "exact_match": ExactMatch,
        "gleu": GLEU,
        "ter": TER,
        "meteor": METEOR,
        "cider": CIDErD,
        "nist": NIST,
        "bertscore": BERTScore,
        "evaluate": EvaluateMetric,
        "token_f1": TokenF1,
        "edit_similarity": EditSimilarity,
        "length": Length,
        "length_penalty": LengthPenalty,
        "distinct_n": DistinctN,
        "format": Format,
        "keywords": Keywords,
        "slot_coverage": SlotCoverage,
        "classifier": Classifier,
        "reward_model": RewardModel,
        "fluency": Fluency,
        "cached": Cached,
        "in_workers": InWorkers,
        "retried": Retried,
        "weighted": Weighted,
        "product": Product,
        "minimum": Minimum,
        "gate": Gate,
        "threshold": Threshold,
        "clipped": Clipped,
        "scaled": Scaled,
        "normalized": Normalized,
    }
)

__all__ = [
    "BLEU",
    "GLEU",
    "METEOR",
    "NIST",
    "REWARDS",
    "TER",
    "BERTScore",
    "CIDErD",
    "Cached",
    "ChrF",
    "Classifier",
    "Clipped",
    "Combined",
    "DistinctN",
    "EditSimilarity",
    "EvaluateMetric",
    "ExactMatch",
    "Fluency",
    "Format",
    "Gate",
    "InWorkers",
    "Keywords",
    "Length",
    "LengthPenalty",
    "Minimum",
    "Normalized",
    "Product",
    "ReferenceReward",
    "Retried",
    "Reward",
    "RewardModel",
    "Rouge",
    "Scaled",
    "SlotCoverage",
    "Threshold",
    "TokenF1",
    "Weighted",
    "call_reward",
    "completion_text",
    "make_reward",
    "make_rewards",
    "reward_name",
]
