"""Sentence BLEU, equal to sacrebleu's."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .grams import GramTable
from .overlap import ReferenceReward
from .tokens import sacrebleu_tokens

MAX_ORDER = 4


class BleuReferences(NamedTuple):
    """The references of a row: their n-grams and their lengths."""

    table: GramTable
    lengths: set[int]


class BLEU(ReferenceReward[BleuReferences]):
    """
    Returns the sentence BLEU of each completion against all its references, in [0, 1]: sacrebleu's, divided by 100.

    `BP * exp(mean over n = 1..4 of log p_n)`, `p_n` the share of the completion's n-grams that occur in a reference,
    each counted at most as often as in the reference that has it most often, and `BP = min(1, exp(1 - r / c))` for a
    completion of c tokens and the reference length r closest to it (of two equally close ones the shorter). From
    "BLEU: a Method for Automatic Evaluation of Machine Translation" (Papineni et al., 2002,
    https://aclanthology.org/P02-1040), as implemented in sacrebleu: "A Call for Clarity in Reporting BLEU Scores"
    (Post, 2018, https://aclanthology.org/W18-6319).

    One sentence often has no matching 4-gram, and unsmoothed BLEU is then 0 whatever else matched: a reward without a
    slope. Smoothing replaces the zeros, and the effective order leaves out those n for which a short completion has no
    n-grams at all. A completion without a single matching word has 0 under any smoothing.

    Args:
        smooth_method (`str`, *optional*, defaults to `"exp"`):
            One of `"exp"`, `"floor"`, `"add-k"`, `"none"`, in sacrebleu's sense; compared in "A Systematic Comparison
            of Smoothing Techniques for Sentence-Level BLEU" (Chen and Cherry, 2014, https://aclanthology.org/W14-3346).
        smooth_value (`float`, *optional*):
            Value of `"floor"` (defaults to 0.1) and of `"add-k"` (defaults to 1).
        effective_order (`bool`, *optional*, defaults to `True`):
            Whether to average only over the orders of which the completion has n-grams.
        lowercase (`bool`, *optional*, defaults to `False`):
            Whether to ignore case.
        tokenize (`str`, *optional*, defaults to `"13a"`):
            Name of a sacrebleu tokenizer: `"13a"`, `"intl"`, `"char"`, `"zh"`, `"none"` ...
        column (`str`, *optional*, defaults to `"references"`):
            Dataset column with a string or a list of strings per row.
        name (`str`, *optional*, defaults to `"bleu"`):
            Name under which trainers log it.
        cache_size (`int`, *optional*, defaults to `1024`):
            Rows whose prepared references are kept.

    Raises:
        ValueError: if sacrebleu knows no such smoothing or tokenizer.
    """

    def __init__(
        self,
        smooth_method: str = "exp",
        smooth_value: float | None = None,
        effective_order: bool = True,
        lowercase: bool = False,
        tokenize: str = "13a",
        column: str = "references",
        name: str = "bleu",
        cache_size: int = 1024,
    ):
        from sacrebleu.metrics.bleu import BLEU as SacreBLEU

        if smooth_method not in SacreBLEU.SMOOTH_DEFAULTS:
            methods = list(SacreBLEU.SMOOTH_DEFAULTS)
            raise ValueError(f"`smooth_method` must be one of {methods}, got {smooth_method!r}.")
        if tokenize not in SacreBLEU.TOKENIZERS:
            raise ValueError(f"`tokenize` must be one of {list(SacreBLEU.TOKENIZERS)}, got {tokenize!r}.")
        super().__init__(name, column, cache_size)
        self.sacrebleu = SacreBLEU(
            lowercase=lowercase,
            tokenize=tokenize,
            smooth_method=smooth_method,
            smooth_value=smooth_value,
            max_ngram_order=MAX_ORDER,
            effective_order=effective_order,
        )
        default = SacreBLEU.SMOOTH_DEFAULTS[smooth_method] or 0
        self.smooth_value: float = default if smooth_value is None else smooth_value
        self.sacrebleu.num_refs = -1  # sacrebleu's way to say: varies

    @property
    def signature(self) -> str:
        """`bleu|` and the signature that sacrebleu gives to these options."""
        return f"bleu|{self.sacrebleu.get_signature().format()}"

    def _tokens(self, text: str) -> list[str]:
        return sacrebleu_tokens(text.lower() if self.sacrebleu.lowercase else text, self.sacrebleu.tokenizer)

    def prepare(self, references: tuple[str, ...]) -> BleuReferences:
        """Returns the n-grams and lengths of the references of a row."""
        tokens = [self._tokens(reference) for reference in references]
        return BleuReferences(GramTable(tokens, MAX_ORDER), {len(words) for words in tokens})

    def statistics(self, completions: Sequence[str], references: Sequence[str | Sequence[str]]) -> list[list[float]]:
        """
        Returns of each row what adds up to the BLEU of a corpus: the tokens of the completion and of the reference
        closest in length, the n-grams of each order that match, and all n-grams of each order.
        """
        rows = [self._references(row, value) for row, value in enumerate(references)]
        return [[*self._statistics(text, self._prepared(refs))] for text, refs in zip(completions, rows, strict=True)]

    def _statistics(self, completion: str, prepared: BleuReferences) -> list[int]:
        tokens = self._tokens(completion)
        length = len(tokens)
        rows, counts = prepared.table.shared(tokens)
        hits = counts.clip(max=prepared.table.counts[rows].max(axis=1)).tolist()
        return [
            length,
            min(prepared.lengths, key=lambda reference: (abs(reference - length), reference)),
            *(sum(hits[part]) for part in prepared.table.split(rows)),
            *(max(length - n, 0) for n in range(MAX_ORDER)),
        ]

    def score(self, completion: str, prepared: BleuReferences) -> float:
        """Returns the sentence BLEU of a completion, in [0, 1]."""
        length, reference, *counts = self._statistics(completion, prepared)
        matches, totals = counts[:MAX_ORDER], counts[MAX_ORDER:]
        if not any(matches):
            return 0.0
        logs = [math.log(share) if share else -math.inf for share in self._precisions(matches, totals)]
        orders = len(logs) if self.sacrebleu.effective_order else MAX_ORDER
        if len(logs) < orders:
            return 0.0
        bleu = math.exp(min(1 - reference / length, 0) + sum(logs) / orders)
        return min(bleu, 1.0)  # rounding takes a perfect match above

    def _precisions(self, matches: list[int], totals: list[int]) -> Iterator[float]:
        """Returns the smoothed precision of each order, up to the last of which there are n-grams."""
        method, halved = self.sacrebleu.smooth_method, 1.0
        for n, (match, total) in enumerate(zip(matches, totals, strict=True)):
            added = self.smooth_value if method == "add-k" and n else 0
            if not total + added:
                return
            if not match and method == "exp":
                halved /= 2
            instead = {"exp": halved, "floor": self.smooth_value}.get(method, 0)
            yield (match + added or instead) / (total + added)
