"""METEOR of 2005, equal to nltk's."""

import functools
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from lmrl.libraries import nltk, sacrebleu
from lmrl.utils import check_at_least

from .grams import SacrebleuTokens, stemmer_of
from .references import ReferenceReward

Tokens = list[str]


@functools.cache
def _matchers(synonyms: bool) -> dict[str, Any]:
    """Returns the stemmer and the synonyms that nltk's alignment looks up, cached: the same words come up often."""
    wordnet = nltk.corpus.wordnet
    if synonyms:
        try:
            wordnet.ensure_loaded()
        except LookupError as error:
            raise ValueError(
                "`synonyms=True` needs WordNet, which nltk does not find. Download it once with `python -m "
                "nltk.downloader wordnet`, or leave `synonyms=False`."
            ) from error
    return {
        "stemmer": SimpleNamespace(stem=stemmer_of("porter")),
        "wordnet": SimpleNamespace(
            synsets=functools.lru_cache(maxsize=2**16)(wordnet.synsets) if synonyms else lambda word: ()
        ),
    }


@dataclass(eq=False, repr=False)
class METEOR(ReferenceReward[list[Tokens]]):
    """
    Returns the METEOR of each completion, in [0, 1], best over its references: nltk's `meteor_score`.

    `(1 - gamma (chunks / m)^beta) P R / (alpha P + (1 - alpha) R)` for m matched words, P and R their shares of the
    completion and of the reference, and chunks the number of runs of them in the same order in both. Words match if
    they are equal, have the same Porter stem, or, with `synonyms`, share a synset of WordNet, in which nltk looks up
    the stem: "automobile" is not found. Case is ignored, tokens are those of sacrebleu's 13a, stems and synonyms are
    English. From "METEOR: An Automatic Metric for MT Evaluation with Improved Correlation with Human Judgments"
    (Banerjee and Lavie, 2005, https://aclanthology.org/W05-0909), whose constants are the defaults.

    Not comparable with published scores of METEOR 1.5 ("Meteor Universal: Language Specific Translation Evaluation for
    Any Target Language", Denkowski and Lavie, 2014, https://aclanthology.org/W14-3348), which has other constants,
    weighs function words less and matches paraphrases. A text of n words equal to its reference has `1 - gamma /
    n^beta`, and no matching word gives 0, as does empty against empty.

    Args:
        alpha (`float`, *optional*, defaults to `0.9`):
            Weight of recall against precision, in [0, 1]: 1 is recall alone.
        beta (`float`, *optional*, defaults to `3.0`):
            Exponent of the penalty for fragmentation, 0 or more.
        gamma (`float`, *optional*, defaults to `0.5`):
            Largest penalty for fragmentation, in [0, 1].
        synonyms (`bool`, *optional*, defaults to `False`):
            Whether synonyms match. Needs WordNet: `python -m nltk.downloader wordnet`. Without it scores are lower.
    """

    alpha: float = 0.9
    beta: float = 3.0
    gamma: float = 0.5
    synonyms: bool = False
    name: str = field(default="meteor", kw_only=True)

    def __post_init__(self) -> None:
        check_at_least(0, alpha=self.alpha, beta=self.beta, gamma=self.gamma)
        if max(self.alpha, self.gamma) > 1:
            raise ValueError(
                f"`alpha` and `gamma` must be at most 1, got {self.alpha} and {self.gamma}. METEOR of 2005 has 0.9, 3 "
                "and 0.5."
            )
        super().__post_init__()
        self._tokens = SacrebleuTokens("13a", lowercase=True)
        _matchers(self.synonyms)  # a missing WordNet is an error here, not in the first training step
        match = "exact+porter+wordnet" if self.synonyms else "exact+porter"
        self._signature = (
            f"meteor|nrefs:var|alpha:{self.alpha}|beta:{self.beta}|gamma:{self.gamma}|match:{match}|tok:13a"
            f"|nltk:{nltk.__version__}|sacrebleu:{sacrebleu.__version__}"
        )

    def units(self, text: str) -> Tokens:
        """Returns the tokens of a text."""
        return self._tokens(text)

    progress_units = units

    def score(self, completion: str, prepared: list[Tokens]) -> float:
        """Returns the METEOR of a completion with its best reference, in [0, 1]."""
        options = {"alpha": self.alpha, "beta": self.beta, "gamma": self.gamma, **_matchers(self.synonyms)}
        return float(nltk.translate.meteor_score.meteor_score(prepared, self.units(completion), **options))
