"""Rewards that read text: objects called as `reward(prompts=..., completions=..., **columns)`.

They plug unchanged into any TRL trainer, and evaluation reports the same objects as metrics. Nothing heavy is imported
before the reward that needs it is made.
"""

from .base import Reward, completion_text
from .bleu import BLEU
from .chrf import ChrF
from .combine import Weighted
from .models import Classifier
from .overlap import ExactMatch, ReferenceReward
from .rouge import Rouge
from .specs import REWARDS, make_reward, make_rewards
from .text import Length

__all__ = [
    "BLEU",
    "REWARDS",
    "ChrF",
    "Classifier",
    "ExactMatch",
    "Length",
    "ReferenceReward",
    "Reward",
    "Rouge",
    "Weighted",
    "completion_text",
    "make_reward",
    "make_rewards",
]
