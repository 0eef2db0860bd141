"""Rewards of text: objects called as `reward(prompts=..., completions=..., **columns)`.

They are entries of `reward_funcs` of any TRL trainer, and metrics of evaluation. A library is imported only when a
reward that needs it is made. To add a reward: write its class in a module, import it, and add it to a tuple below.
"""

import functools
from typing import Any

from lmrl.utils import name_of as reward_name

from .algebra import Combined, Product, Reward, Scaled, Weighted
from .base import call_reward, completion_text, on_text, prompt_text
from .bertscore import BERTScore
from .bleu import BLEU, GLEU
from .chrf import ChrF
from .classifier import Classifier
from .corpus import NIST, CIDErD
from .fluency import Fluency
from .hub import EvaluateMetric
from .meteor import METEOR
from .normalize import Normalized
from .phrases import Keywords, SlotCoverage
from .references import ReferenceReward
from .reward_model import RewardModel
from .rouge import Rouge
from .similarity import EditSimilarity, ExactMatch, TokenF1
from .slow import Cached, InWorkers, Retried
from .specs import REWARDS, make_reward, make_rewards
from .ter import TER
from .text import DistinctN, Format, Length, LengthPenalty
from .transform import Clipped, Gate, Minimum, Threshold

# Names in a configuration: that in the log; for a reward made of other rewards, its class's name in lower case.
_WITH_REFERENCES: Any = (BLEU, ChrF, ExactMatch, GLEU, TER, METEOR, CIDErD, NIST, BERTScore, TokenF1, EditSimilarity)
_WITHOUT: Any = (Length, LengthPenalty, DistinctN, Format, Keywords, SlotCoverage, Classifier, RewardModel, Fluency)
_OF_REWARDS = (Cached, Retried, Weighted, Product, Minimum, Gate, Threshold, Clipped, Scaled, Normalized)

REWARDS.update({reward.name: reward for reward in _WITH_REFERENCES})
REWARDS.update({name: functools.partial(Rouge, name) for name in ("rouge1", "rouge2", "rougeL", "rougeLsum")})
REWARDS.update({reward.name: reward for reward in _WITHOUT})
REWARDS.update({reward.__name__.lower(): reward for reward in _OF_REWARDS})
REWARDS.update({"in_workers": InWorkers, "evaluate": EvaluateMetric})

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
    "on_text",
    "prompt_text",
    "reward_name",
]
