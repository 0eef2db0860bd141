"""chrF and chrF++, equal to sacrebleu's: the formula, for sentences and corpora, and the reward."""

import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from lmrl.libraries import Array, np, sacrebleu
from lmrl.progress import Overlap, Symbols, ngram_totals, ngram_totals_of_references, shared_ngrams
from lmrl.utils import check_at_least

from .references import SummedReward, divide

_PUNCTUATION = set(string.punctuation)


def chrf_score(sums: Array, beta: float = 2) -> Array:
    """
    Returns the chrF, in [0, 1], from the statistics of [`ChrF`], or sums of them, `(..., 3 * orders)`; 0 where nothing
    matches.
    """
    of_orders = sums.reshape(*sums.shape[:-1], -1, 3)
    return _score(np.moveaxis(of_orders, (-2, -1), (0, 1)), beta)


def _score(of_orders: Any, beta: float) -> Array:
    """Returns the chrF from the numbers, by order, of n-grams in the completion, in the reference and in both."""
    # Where a text has no n-grams, none match, and the order adds 0.
    precision = sum(matches / of_completion.clip(min=1) for of_completion, _, matches in of_orders)
    recall = sum(matches / of_reference.clip(min=1) for _, of_reference, matches in of_orders)
    orders = sum((of_completion > 0) & (of_reference > 0) for of_completion, of_reference, _ in of_orders)
    factor = beta**2
    return divide((1 + factor) * precision * recall, (factor * precision + recall) * orders, 0)


def _words(text: str) -> list[str]:
    """Returns the words of chrF++: a punctuation mark at the end of a word, or else at its start, stands alone."""
    words = []
    for word in text.split():
        if len(word) > 1 and word[-1] in _PUNCTUATION:
            words += [word[:-1], word[-1]]
        elif len(word) > 1 and word[0] in _PUNCTUATION:
            words += [word[0], word[1:]]
        else:
            words.append(word)
    return words


@dataclass(eq=False, repr=False)
class ChrF(SummedReward[list[list[Symbols]]]):
    """
    Returns the sentence chrF of each completion, in [0, 1], best over its references: sacrebleu's, divided by 100.

    `(1 + beta^2) P R / (beta^2 P + R)` with P and R the precision and recall of character n-grams (white space left
    out), averaged over the orders of which both texts have n-grams. From "chrF: character n-gram F-score for automatic
    MT evaluation" (Popović, 2015, https://aclanthology.org/W15-3049); with `word_order=2` it is the chrF++ of "chrF++:
    words helping character n-grams" (Popović, 2017, https://aclanthology.org/W17-4770).

    Args:
        char_order (`int`, *optional*, defaults to `6`):
            Longest character n-gram, at least 0.
        word_order (`int`, *optional*, defaults to `0`):
            Longest word n-gram, at least 0; not both are 0.
        beta (`float`, *optional*, defaults to `2`):
            How many times more recall weighs than precision.
        lowercase (`bool`, *optional*, defaults to `False`):
            Whether to ignore case.
    """

    char_order: int = 6
    word_order: int = 0
    beta: float = 2
    lowercase: bool = False
    name: str = field(default="chrf", kw_only=True)

    def __post_init__(self) -> None:
        check_at_least(0, char_order=self.char_order, word_order=self.word_order, beta=self.beta)
        if self.char_order + self.word_order == 0:
            raise ValueError("`char_order` and `word_order` must not both be 0. chrF has 6 and 0, chrF++ has 6 and 2.")
        super().__post_init__()
        self.progress_order = max(self.progress_order, self.char_order)
        signature = self.sacrebleu_metric(sacrebleu.CHRF).get_signature().format()
        self._signature = f"chrF{self.beta}{'+' * self.word_order}|{signature}"

    def units(self, text: str) -> list[Symbols]:
        """Returns the characters and the words of a text, each if its longest n-gram is not 0."""
        symbols: list[Symbols] = [self.progress_units(text)] if self.char_order else []
        return [*symbols, self._progress_words(text)] if self.word_order else symbols

    def progress_units(self, text: str) -> str:
        """Returns the characters that `progress` counts: all but white space."""
        return "".join((text.lower() if self.lowercase else text).split())

    def _progress_words(self, text: str) -> list[str]:
        return _words(text.lower() if self.lowercase else text)

    def as_if_ended(self, overlap: Overlap) -> Array:
        """Returns the chrF of each text so far, (N,)."""
        of_kinds = [(overlap, self.char_order)]
        if self.word_order:
            words = Overlap.of_units(overlap.prefixes, overlap.references, self._progress_words, self.word_order)
            of_kinds.append((words, self.word_order))
        of_orders = [
            (of_kind.totals[:, n : n + 1], (of_kind.reference_lengths - n).clip(min=0), of_kind.counts.shared[:, n])
            for of_kind, order in of_kinds
            for n in range(order)
        ]
        return overlap.best(_score(of_orders, self.beta))

    def prepare(self, references: tuple[str, ...]) -> list[list[Symbols]]:
        """Returns the characters of each reference of a row, and the words of each."""
        return [list(of_kind) for of_kind in zip(*map(self.units, references), strict=True)]

    def batch_statistics(self, completions: Sequence[str], prepared: Sequence[list[list[Symbols]]]) -> list[list[int]]:
        """
        Returns for each completion and order the numbers of n-grams in the completion (0 if the reference has none),
        in the reference, and in both, for the reference that gives the highest score.
        """
        texts = [self.units(completion) for completion in completions]
        counts = []
        for kind, order in enumerate(order for order in (self.char_order, self.word_order) if order):
            of_kind = [text[kind] for text in texts]
            references = [of_row[kind] for of_row in prepared]
            of_references = ngram_totals_of_references(references, order)
            of_completions = np.where(of_references > 0, ngram_totals(of_kind, order)[:, None], 0)
            counts.append(
                np.stack([of_completions, of_references, shared_ngrams(of_kind, references, order)], axis=-1)
            )
        # (completions, references, numbers)
        statistics = np.concatenate(counts, axis=2).reshape(len(texts), -1, 3 * (self.char_order + self.word_order))
        best = chrf_score(statistics, self.beta).argmax(axis=1)
        return cast(list[list[int]], statistics[np.arange(len(texts)), best].tolist())

    def from_statistics(self, sums: Array) -> Array:
        """Returns the chrF of each row of statistics, in [0, 1]."""
        return chrf_score(sums, self.beta)
