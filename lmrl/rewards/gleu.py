"""Google's sentence GLEU, equal to nltk's."""

from .grams import GramTable
from .references import ReferenceReward
from .tokens import SacrebleuTokens

MAX_ORDER = 4


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
        column (`str`, *optional*, defaults to `"references"`):
            Dataset column with a string or a list of strings per row.
        name (`str`, *optional*, defaults to `"gleu"`):
            Name under which trainers log it.
        cache_size (`int`, *optional*, defaults to `1024`):
            Rows whose prepared references are kept.

    Raises:
        ValueError: If sacrebleu has no such tokenizer.
    """

    def __init__(
        self,
        lowercase: bool = False,
        tokenize: str = "13a",
        column: str = "references",
        name: str = "gleu",
        cache_size: int = 1024,
    ):
        super().__init__(name, column, cache_size)
        self.tokens = SacrebleuTokens(tokenize, lowercase)

    @property
    def signature(self) -> str:
        """Case, sacrebleu's tokenizer and its version."""
        from sacrebleu import __version__

        case = "lc" if self.tokens.lowercase else "mixed"
        return f"gleu|nrefs:var|case:{case}|tok:{self.tokens.name}|sacrebleu:{__version__}"

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
