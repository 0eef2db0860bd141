"""Rewards that read text: objects called as `reward(prompts=..., completions=..., **columns)`.

They plug unchanged into any TRL trainer, and evaluation reports the same objects as metrics. Nothing heavy is imported
before the reward that needs it is made.
"""

from .algebra import Combined, Product, Reward, Scaled, Weighted
from .base import call_reward, completion_text, reward_name
from .bertscore import BERTScore
from .bleu import BLEU
from .chrf import ChrF
from .cider import CIDErD
from .classifier import Classifier
from .content import Format, Keywords, SlotCoverage
from .fluency import Fluency
from .gleu import GLEU
from .hub import EvaluateMetric
from .meteor import METEOR
from .nist import NIST
from .normalize import Normalized
from .references import ReferenceReward
from .retried import Retried
from .reward_model import RewardModel
from .rouge import Rouge
from .similarity import EditSimilarity, ExactMatch, TokenF1
from .slow import Cached, InWorkers
from .specs import REWARDS, make_reward, make_rewards
from .ter import TER
from .text import DistinctN, Length, LengthPenalty
from .transform import Clipped, Gate, Minimum, Threshold

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
