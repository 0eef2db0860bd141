"""Sentence chrF and chrF++, equal to sacrebleu's."""

import string
from itertools import repeat
from typing import Any, NamedTuple

from .overlap import ReferenceReward, ngrams, occurrences

_PUNCTUATION = set(string.punctuation)
_FIELD = 32  # bits of a packed counter: no text has 2^32 n-grams


class ChrfReferences(NamedTuple):
    """
    The references of a row, so that one look-up of a gram answers for all of them.

    `packed` has for each gram occurrence an integer of one field of bits per reference, 1 where the reference has it:
    the sum over the occurrences of a completion holds its matches with every reference. `sizes` has for each reference
    its number of n-grams of each order.
    """

    packed: dict[Any, int]
    sizes: list[list[int]]


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


class ChrF(ReferenceReward[ChrfReferences]):
    """
    Returns the sentence chrF of each completion, in [0, 1], best over its references: sacrebleu's, divided by 100.

    `(1 + beta^2) P R / (beta^2 P + R)` with P and R the precision and recall of character n-grams (white space left
    out), averaged over the orders of which both texts have n-grams. From "chrF: character n-gram F-score for automatic
    MT evaluation" (Popović, 2015, https://aclanthology.org/W15-3049); with `word_order=2` it is the chrF++ of "chrF++:
    words helping character n-grams" (Popović, 2017, https://aclanthology.org/W17-4770).

    Args:
        char_order (`int`, *optional*, defaults to `6`):
            Longest character n-gram.
        word_order (`int`, *optional*, defaults to `0`):
            Longest word n-gram.
        beta (`int`, *optional*, defaults to `2`):
            How many times more recall weighs than precision.
        lowercase (`bool`, *optional*, defaults to `False`):
            Whether to ignore case.
        column (`str`, *optional*, defaults to `"references"`):
            Dataset column with a string or a list of strings per row.
        name (`str`, *optional*, defaults to `"chrf"`):
            Name under which trainers log it.
        cache_size (`int`, *optional*, defaults to `256`):
            Rows whose prepared references are kept: fewer than by other rewards, as a row of eight sentences takes a
            quarter of a megabyte.

    Raises:
        ValueError: if an order is negative, or both are 0.
    """

    def __init__(
        self,
        char_order: int = 6,
        word_order: int = 0,
        beta: int = 2,
        lowercase: bool = False,
        column: str = "references",
        name: str = "chrf",
        cache_size: int = 256,
    ):
        if min(char_order, word_order) < 0 or char_order + word_order == 0:
            raise ValueError(
                f"`char_order` and `word_order` must not be negative nor both 0, got {char_order} and {word_order}. "
                "chrF is 6 and 0, chrF++ is 6 and 2."
            )
        super().__init__(name, column, cache_size)
        self.char_order = char_order
        self.word_order = word_order
        self.beta = beta
        self.lowercase = lowercase

    @property
    def signature(self) -> str:
        """The name of the variant and the signature that sacrebleu gives to these options."""
        from sacrebleu.metrics.chrf import CHRF

        metric = CHRF(self.char_order, self.word_order, self.beta, self.lowercase)
        metric.num_refs = -1  # sacrebleu's way to say: varies
        return f"chrF{self.beta}{'+' * self.word_order}|{metric.get_signature().format()}"

    def _grams(self, text: str) -> list[set[Any]]:
        text = text.lower() if self.lowercase else text
        characters = "".join(text.split())
        orders: list[set[Any]] = [
            occurrences([characters[start : start + n] for start in range(len(characters) - n + 1)])
            for n in range(1, self.char_order + 1)
        ]
        words = _words(text) if self.word_order else []
        return orders + [occurrences(ngrams(words, n)) for n in range(1, self.word_order + 1)]

    def prepare(self, references: tuple[str, ...]) -> ChrfReferences:
        """Returns the packed n-grams of the references of a row."""
        prepared = ChrfReferences({}, [])
        for place, reference in enumerate(references):
            orders = self._grams(reference)
            prepared.sizes.append([len(grams) for grams in orders])
            for grams in orders:
                for gram in grams:
                    prepared.packed[gram] = prepared.packed.get(gram, 0) + (1 << _FIELD * place)
        return prepared

    def score(self, completion: str, prepared: ChrfReferences) -> float:
        """Returns the chrF of a completion with its best reference, in [0, 1]."""
        orders = self._grams(completion)
        ours = [len(grams) for grams in orders]
        matches = [sum(map(prepared.packed.get, grams, repeat(0))) for grams in orders]
        best = 0.0
        for place, theirs in enumerate(prepared.sizes):
            hits = [packed >> _FIELD * place & (1 << _FIELD) - 1 for packed in matches]
            best = max(best, self._f_score(hits, ours, theirs))
        return best

    def _f_score(self, hits: list[int], ours: list[int], theirs: list[int]) -> float:
        both = [(hit, mine, yours) for hit, mine, yours in zip(hits, ours, theirs, strict=True) if mine and yours]
        if not any(hits):
            return 0.0
        precision = sum(hit / mine for hit, mine, _ in both) / len(both)
        recall = sum(hit / yours for hit, _, yours in both) / len(both)
        factor = self.beta**2
        return (1 + factor) * precision * recall / (factor * precision + recall)
