"""BLEU, equal to sacrebleu's: the formula, for sentences and corpora, and the reward; and Google's GLEU, as nltk's."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from lmrl.libraries import Array, np, sacrebleu
from lmrl.progress import Overlap, ngram_totals, ngram_totals_of_references, shared_ngrams
from lmrl.utils import check_at_least, check_in

from .base import Columns, Prompts, Scores
from .grams import SacrebleuTokens
from .references import ReferenceReward, SummedReward

MAX_ORDER = 4
Tokens = list[str]


def log_bleu(
    sums: Array, smooth_method: str = "exp", smooth_value: float = 0.0, effective_order: bool = False
) -> Array:
    """
    Returns the logarithm of BLEU, at most 0: that of the brevity penalty plus the mean log n-gram precision.

    `min(0, 1 - r / c) + mean over n = 1..4 of log p_n` with the symbols and options of [`BLEU`]; -inf where nothing
    matches. `sums` `(..., 10)` has c, r, and for n = 1..4 the matching n-grams, then all n-grams.
    """
    tokens, reference = sums[..., 0], sums[..., 1]
    matches, totals = np.split(sums[..., 2:], 2, axis=-1)
    some = matches.any(axis=-1)
    if smooth_method == "add-k":
        added = np.array([0.0] + [smooth_value] * (MAX_ORDER - 1))
        matches, totals = matches + added, totals + added
    instead: Array = np.zeros_like(matches)
    if smooth_method == "exp":
        instead = 0.5 ** np.cumsum(matches == 0, axis=-1)
    elif smooth_method == "floor":
        instead = np.full_like(matches, smooth_value)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(np.where(matches > 0, matches, instead) / totals)
        brevity = np.where(tokens > 0, np.minimum(1 - reference / tokens, 0), -np.inf)
    counted = totals > 0
    if effective_order:
        precision = np.where(counted, logs, 0).sum(axis=-1) / np.maximum(counted.sum(axis=-1), 1)
    else:
        precision = np.where(counted, logs, -np.inf).mean(axis=-1)
    return cast(Array, brevity + np.where(some, precision, -np.inf))


def corpus_bleu(sums: Array, effective_order: bool = False) -> Array:
    """Returns the BLEU, in [0, 100], smoothed by `exp`; the arguments are those of [`log_bleu`]."""
    return cast(Array, 100 * np.exp(log_bleu(sums, effective_order=effective_order)))


@dataclass(eq=False, repr=False)
class BLEU(SummedReward[list[Tokens]]):
    """
    Returns the sentence BLEU of each completion against all its references, in [0, 1]: sacrebleu's, divided by 100.

    `BP * exp(mean over n = 1..4 of log p_n)`, `p_n` the share of the completion's n-grams that occur in a reference,
    each counted at most as often as in the reference that has it most often, and `BP = min(1, exp(1 - r / c))` for a
    completion of c tokens and the reference length r closest to it (of two equally close ones the shorter). From
    "BLEU: a Method for Automatic Evaluation of Machine Translation" (Papineni et al., 2002,
    https://aclanthology.org/P02-1040), as implemented in sacrebleu: "A Call for Clarity in Reporting BLEU Scores"
    (Post, 2018, https://aclanthology.org/W18-6319).

    One sentence often has no matching 4-gram, and unsmoothed BLEU is then 0 whatever else matched: a reward that gives
    the policy no direction. Smoothing replaces the zeros, and the effective order leaves out those n for which a short
    completion has no n-grams at all. A completion without a single matching word has 0 under any smoothing.

    Args:
        smooth_method (`str`, *optional*, defaults to `"exp"`):
            One of `"exp"`, `"floor"`, `"add-k"`, `"none"`, in sacrebleu's sense; compared in "A Systematic Comparison
            of Smoothing Techniques for Sentence-Level BLEU" (Chen and Cherry, 2014, https://aclanthology.org/W14-3346).
        smooth_value (`float`, *optional*):
            Value of `"floor"` (defaults to 0.1) and of `"add-k"` (defaults to 1), at least 0; not with the others.
        effective_order (`bool`, *optional*, defaults to `True`):
            Whether to average only over the orders of which the completion has n-grams.
        lowercase (`bool`, *optional*, defaults to `False`):
            Whether to ignore case.
        tokenize (`str`, *optional*, defaults to `"13a"`):
            Name of a sacrebleu tokenizer: `"13a"`, `"intl"`, `"char"`, `"zh"`, `"none"` ...
    """

    smooth_method: str = "exp"
    smooth_value: float | None = None
    effective_order: bool = True
    lowercase: bool = False
    tokenize: str = "13a"
    name: str = field(default="bleu", kw_only=True)

    def __post_init__(self) -> None:
        check_in(sacrebleu.BLEU.SMOOTH_DEFAULTS, smooth_method=self.smooth_method)
        check_at_least(0, smooth_value=self.smooth_value)
        default = sacrebleu.BLEU.SMOOTH_DEFAULTS[self.smooth_method]
        if self.smooth_value is not None and default is None:
            raise ValueError(
                f"`smooth_value` must be None with smoothing by {self.smooth_method!r}, got {self.smooth_value}. Take "
                "'floor' or 'add-k', or leave it out."
            )
        super().__post_init__()
        self._tokens = SacrebleuTokens(self.tokenize, self.lowercase)
        self._signature = f"bleu|{self.sacrebleu_metric(sacrebleu.BLEU).get_signature().format()}"
        if self.smooth_value is None:
            self.smooth_value = default

    def units(self, text: str) -> Tokens:
        """Returns the tokens of a text."""
        return self._tokens(text)

    progress_units = units

    def as_if_ended(self, overlap: Overlap) -> Array:
        """Returns the BLEU of each text so far, (N,)."""
        sums = [overlap.lengths, overlap.closest(), overlap.counts.together, overlap.totals]
        return self.from_statistics(np.column_stack(sums).astype(np.float64))

    def batch_statistics(self, completions: Sequence[str], prepared: Sequence[list[Tokens]]) -> list[list[int]]:
        """
        Returns for each completion numbers: of its tokens, of those of the reference closest in length, of the
        matching n-grams of orders 1 to 4, and of all its n-grams of orders 1 to 4.
        """
        tokens = [self.units(completion) for completion in completions]
        closest = [
            min((abs(len(reference) - len(words)), len(reference)) for reference in of_row)[1]
            for words, of_row in zip(tokens, prepared, strict=True)
        ]
        totals = ngram_totals(tokens, MAX_ORDER)
        matches = shared_ngrams(tokens, prepared, MAX_ORDER, together=True)[:, 0]
        return cast(list[list[int]], np.column_stack([totals[:, 0], closest, matches, totals]).tolist())

    def from_statistics(self, sums: Array) -> Array:
        """Returns the BLEU of each row of statistics, in [0, 1]."""
        logs = log_bleu(sums, self.smooth_method, self.smooth_value or 0.0, self.effective_order)
        # Python's exp: the last bit of numpy's depends on the vector instructions of the CPU. Rounding takes a
        # perfect match above 1.
        return np.array([min(math.exp(log), 1.0) for log in logs.tolist()])


@dataclass(eq=False, repr=False)
class GLEU(ReferenceReward[list[Tokens]]):
    """
    Returns the GLEU of each completion, in [0, 1], best over its references: nltk's `sentence_gleu`.

    `min(P, R)`, with P and R the precision and the recall of all n-grams of 1 to 4 tokens taken together. From
    "Google's Neural Machine Translation System: Bridging the Gap between Human and Machine Translation" (Wu et al.,
    2016, https://arxiv.org/abs/1609.08144), where it is the reward: made for single sentences, it needs no smoothing
    and no brevity penalty. Nothing in common is 0, as is an empty text against an empty one.

    Args:
        lowercase (`bool`, *optional*, defaults to `False`), tokenize (`str`, *optional*, defaults to `"13a"`):
            Those of [`BLEU`].
    """

    lowercase: bool = False
    tokenize: str = "13a"
    name: str = field(default="gleu", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._tokens = SacrebleuTokens(self.tokenize, self.lowercase)
        case = "lc" if self.lowercase else "mixed"
        self._signature = f"gleu|nrefs:var|case:{case}|tok:{self._tokens.name}|sacrebleu:{sacrebleu.__version__}"

    def units(self, text: str) -> Tokens:
        """Returns the tokens of a text."""
        return self._tokens(text)

    progress_units = units

    def as_if_ended(self, overlap: Overlap) -> Array:
        """Returns the GLEU of each text so far, (N,)."""
        orders = np.arange(MAX_ORDER)
        totals = (overlap.reference_lengths[..., None] - orders).clip(min=0).sum(axis=-1)  # (N, R)
        longer = totals.clip(min=overlap.totals.sum(axis=1, keepdims=True)).clip(min=1)
        return overlap.best(overlap.counts.shared.sum(axis=1) / longer)

    def scores(self, completions: list[str], prompts: Prompts, columns: Columns) -> Scores:
        """Returns the GLEU of each completion with its best reference, in [0, 1]."""
        prepared = self._prepare_rows(columns[self.column])
        if not prepared:
            return []
        tokens = [self.units(completion) for completion in completions]
        matches = shared_ngrams(tokens, prepared, MAX_ORDER).sum(axis=-1)  # (completions, references)
        of_completions = ngram_totals(tokens, MAX_ORDER).sum(axis=-1)
        of_references = ngram_totals_of_references(prepared, MAX_ORDER).sum(axis=-1)
        longer = of_references.clip(min=of_completions[:, None]).clip(min=1)
        return cast(Scores, (matches / longer).max(axis=-1).tolist())
