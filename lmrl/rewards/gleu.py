"""Google's sentence GLEU, equal to nltk's."""

from dataclasses import dataclass, field

from .grams import GramTable
from .references import ReferenceReward
from .tokens import SacrebleuTokens

MAX_ORDER = 4


@dataclass(eq=False, repr=False)
class GLEU(ReferenceReward[GramTable]):
    """
    Returns the GLEU of each completion, in [0, 1], best over its references: nltk's `sentence_gleu`.

    `min(P, R)`, with P and R the precision and the recall of all n-grams of 1 to 4 tokens taken together. From
    "Google's Neural Machine Translation System: Bridging the Gap between Human and Machine Translation" (Wu et al.,
    2016, https://arxiv.org/abs/1609.08144), where it is the reward: made for single sentences, it needs no smoothing
    and no brevity penalty. Nothing in common is 0, as is an empty text against an empty one.

    Args:
        lowercase (`bool`, *optional*, defaults to `False`):
            Whether to ignore case.
        tokenize (`str`, *optional*, defaults to `"13a"`):
            Name of a sacrebleu tokenizer: `"13a"`, `"intl"`, `"char"`, `"zh"`, `"none"` ...
        name (defaults to `"gleu"`), column, cache_size:
            Those of [`ReferenceReward`].

    Raises:
        ValueError: If sacrebleu has no such tokenizer.
    """

    lowercase: bool = False
    tokenize: str = "13a"
    name: str = field(default="gleu", kw_only=True)

    def __post_init__(self) -> None:
        from sacrebleu import __version__

        super().__post_init__()
        self.tokens = SacrebleuTokens(self.tokenize, self.lowercase)
        case = "lc" if self.lowercase else "mixed"
        self._signature = f"gleu|nrefs:var|case:{case}|tok:{self.tokens.name}|sacrebleu:{__version__}"

    def prepare(self, references: tuple[str, ...]) -> GramTable:
        """Returns the n-grams of the references of a row."""
        return GramTable([self.tokens(reference) for reference in references], MAX_ORDER)

    def score(self, completion: str, prepared: GramTable) -> float:
        """Returns the GLEU of a completion with its best reference, in [0, 1]."""
        tokens = self.tokens(completion)
        rows, counts = prepared.shared(tokens)
        hits = counts[:, None].clip(max=prepared.counts[rows]).sum(axis=0)
        grams = sum(max(len(tokens) - n, 0) for n in range(MAX_ORDER))
        return float((hits / prepared.totals.sum(axis=0).clip(min=max(grams, 1))).max())
