"""Corpus metrics of the completions alone: diversity, repetition and length."""

import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable

import numpy as np

from lmrl import rewards
from lmrl.libraries import sacrebleu
from lmrl.rewards.bleu import MAX_ORDER, corpus_bleu
from lmrl.rewards.grams import SacrebleuTokens, ngrams, occurrences

from .scores import Corpus, Score, mean_score

SELF_BLEU_TEXTS = 500
SELF_BLEU_SEED = 0  # of the choice of these texts


def _distinct(name: str, corpus: Corpus) -> Score:
    """Returns the share of distinct n-grams among all n-grams of the corpus; n is the last digit of the name."""
    n = int(name[-1])
    total = 0
    different = set()
    for text in corpus.texts:
        grams = ngrams(text.split(), n)
        total += len(grams)
        different.update(grams)
    value = len(different) / total if total else float("nan")
    return Score(name, value, f"n:{n}|tok:whitespace|case:mixed|pooled:corpus", None, higher_is_better=True)


def _repetition(name: str, corpus: Corpus) -> Score:
    """Returns the mean over completions of the share of their 4-grams that repeat an earlier one, in percent."""
    shares = [100 * (1 - (value or 0.0)) for value in rewards.DistinctN(4)(completions=corpus.texts)]
    return mean_score(name, "n:4|tok:whitespace|case:mixed|per:completion", shares, higher_is_better=False)


def _length(name: str, corpus: Corpus) -> Score:
    return mean_score(name, f"unit:{corpus.length_unit}", [float(n) for n in corpus.lengths], None)


def _unfinished(name: str, corpus: Corpus) -> Score:
    return mean_score(name, "share", [float(not finished) for finished in corpus.finished], higher_is_better=False)


def _self_bleu(name: str, corpus: Corpus) -> Score:
    """
    Returns the mean sentence BLEU of each completion against others as references, in [0, 100].

    If prompts have several samples, the others are those of the same prompt; else they are all other completions, in a
    random choice of 500 if there are more. NaN for a single text. The score has no statistics: the value of a row
    depends on the other rows, so that rows cannot be resampled.
    """
    groups: dict[int, list[str]] = {}
    for row, text in zip(corpus.rows, corpus.texts, strict=True):
        groups.setdefault(row, []).append(text)
    against = "samples"
    if len(groups) == len(corpus.texts):
        texts = list(corpus.texts)
        if len(texts) > SELF_BLEU_TEXTS:
            texts = random.Random(SELF_BLEU_SEED).sample(texts, SELF_BLEU_TEXTS)
        groups = {0: texts}
        against = f"texts|most:{SELF_BLEU_TEXTS}|seed:{SELF_BLEU_SEED}"
    values = [value for group in groups.values() if len(group) > 1 for value in _bleu_against_others(group)]
    value = float(np.mean(values)) if values else float("nan")
    signature = f"case:mixed|eff:yes|tok:13a|smooth:exp|version:{sacrebleu.__version__}"
    return Score(name, value, f"against:{against}|{signature}", None, higher_is_better=False)


TEXT_METRICS: dict[str, Callable[[str, Corpus], Score]] = {
    "distinct1": _distinct,
    "distinct2": _distinct,
    "self_bleu": _self_bleu,
    "repetition": _repetition,
    "length": _length,
    "unfinished": _unfinished,
}
"""Functions of the metric's name and a corpus, with or without references."""


def _bleu_against_others(texts: list[str]) -> list[float]:
    """Returns the BLEU of each text with all others as references."""
    group = list(map(SacrebleuTokens("13a", lowercase=False), texts))
    orders = [[occurrences(ngrams(words, n)) for words in group] for n in range(1, MAX_ORDER + 1)]
    # An n-gram of a text also occurs in another text if at least two texts have it.
    counts = [Counter(gram for grams in order for gram in grams) for order in orders]
    shared = [{gram for gram, count in frequencies.items() if count > 1} for frequencies in counts]
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


def _closest_other(lengths: list[int], length: int) -> int:
    """Returns the closest to `length` (of two the shorter) among the sorted lengths, leaving `length` out once."""
    place = bisect_left(lengths, length)
    neighbours = lengths[max(place - 1, 0) : place] + lengths[place + 1 : place + 2]
    return min(neighbours, key=lambda other: (abs(other - length), other))
