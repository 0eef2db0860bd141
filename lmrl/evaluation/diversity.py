"""Corpus metrics of the completions alone: how many words they have, how often they say the same."""

import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from lmrl import rewards
from lmrl.rewards.bleu import MAX_ORDER, corpus_bleu
from lmrl.rewards.grams import ngrams, occurrences

from .scores import Score, mean_score

SELF_BLEU_TEXTS = 500


def distinct(name: str, texts: Sequence[str]) -> Score:
    """Returns the different n-grams over all n-grams of the corpus, n being the last digit of the name."""
    n = int(name[-1])
    total, different = 0, set()
    for text in texts:
        grams = ngrams(text.split(), n)
        total += len(grams)
        different.update(grams)
    value = len(different) / total if total else float("nan")
    return Score(name, value, f"n:{n}|tok:whitespace|case:mixed|pooled:corpus", None, higher_is_better=True)


def repetition(texts: Sequence[str]) -> Score:
    """Returns the mean share of the 4-grams of a completion that it has said before, in percent."""
    shares = [100 * (1 - (value or 0.0)) for value in rewards.DistinctN(4)(completions=texts)]
    return mean_score("repetition", "n:4|tok:whitespace|case:mixed|per:completion", shares, higher_is_better=False)


def self_bleu(texts: Sequence[str], rows: Sequence[int], seed: int = 0) -> Score:
    """
    Returns the mean sentence BLEU of each completion against others as references, in [0, 100]: high if all say alike.

    Where prompts have several samples, the others are those of the same prompt; else they are all other completions,
    of 500 drawn at random if there are more. NaN for a single text.

    Args:
        texts (list of `str`):
            The completions.
        rows (list of `int`):
            The prompt of each.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the choice of 500.

    Returns:
        [`Score`]. Without statistics: what a row has depends on the others, so that rows cannot be drawn.
    """
    groups: dict[int, list[str]] = {}
    for row, text in zip(rows, texts, strict=True):
        groups.setdefault(row, []).append(text)
    against = "samples"
    if len(groups) == len(texts):
        few = len(texts) <= SELF_BLEU_TEXTS
        groups = {0: list(texts) if few else random.Random(seed).sample(list(texts), SELF_BLEU_TEXTS)}
        against = f"texts|most:{SELF_BLEU_TEXTS}|seed:{seed}"
    values = [value for group in groups.values() if len(group) > 1 for value in _against_others(group)]
    signature = f"against:{against}|{_signature()}"
    return Score("self_bleu", float(np.mean(values)) if values else float("nan"), signature, None, False)


def _against_others(texts: list[str]) -> list[float]:
    """Returns the BLEU of each text with all others as references."""
    from sacrebleu.metrics.bleu import BLEU

    tokenizer = BLEU(tokenize="13a").tokenizer
    group = [tokenizer(text.rstrip()).split() for text in texts]
    orders = [[occurrences(ngrams(words, n)) for words in group] for n in range(1, MAX_ORDER + 1)]
    # What two texts have, one of them has and another one too.
    shared = [{gram for gram, texts in _frequencies(grams).items() if texts > 1} for grams in orders]
    lengths = sorted(map(len, group))
    statistics = [
        [
            len(words),
            _closest_other(lengths, len(words)),
            *(len(grams[place] & common) for grams, common in zip(orders, shared, strict=True)),
            *(max(len(words) - lost, 0) for lost in range(MAX_ORDER)),
        ]
        for place, words in enumerate(group)
    ]
    scores: list[float] = corpus_bleu(np.asarray(statistics, dtype=np.float64), effective_order=True).tolist()
    return scores


def _frequencies(sets: Iterable[set[Hashable]]) -> Counter[Hashable]:
    return Counter(gram for grams in sets for gram in grams)


def _closest_other(lengths: list[int], length: int) -> int:
    """Returns the closest of the sorted lengths, the shorter of two, after one that is `length` was taken out."""
    place = bisect_left(lengths, length)
    neighbours = lengths[max(place - 1, 0) : place] + lengths[place + 1 : place + 2]
    return min(neighbours, key=lambda other: (abs(other - length), other))


def _signature() -> str:
    import sacrebleu

    return f"case:mixed|eff:yes|tok:13a|smooth:exp|version:{sacrebleu.__version__}"
