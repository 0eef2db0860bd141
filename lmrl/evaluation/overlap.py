"""Corpus metrics that compare completions with references, and what each row adds to them."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from lmrl import rewards
from lmrl.rewards.bleu import corpus_bleu

from .corpus import Corpus
from .scores import Score, mean_score, pooled_score
from .statistics import POOLINGS


def _bleu(name: str, corpus: Corpus) -> Score:
    from sacrebleu.metrics.bleu import BLEU

    lowercase = name == "bleu_e2e"
    statistics = rewards.BLEU(lowercase=lowercase).statistics(corpus.texts, corpus.references or [])
    row_scores = corpus_bleu(np.asarray(statistics, dtype=np.float64), effective_order=True).tolist()
    signature = _signature(BLEU(lowercase=lowercase), corpus)
    return pooled_score(name, signature, "bleu", statistics, row_scores, higher_is_better=True)


def _chrf(name: str, corpus: Corpus) -> Score:
    from sacrebleu.metrics.chrf import CHRF

    statistics = rewards.ChrF().statistics(corpus.texts, corpus.references or [])
    return _by_row(name, _signature(CHRF(), corpus), "chrf", statistics, higher_is_better=True)


def _ter(name: str, corpus: Corpus) -> Score:
    from sacrebleu.metrics.ter import TER

    statistics = rewards.TER().statistics(corpus.texts, corpus.references or [])
    return _by_row(name, _signature(TER(), corpus), "ter", statistics, higher_is_better=False)


def _nist(name: str, corpus: Corpus) -> Score:
    references = corpus.references_by_prompt()
    if sum(len(text.split()) for texts in references for text in texts) < 2:  # no word is rarer than another
        return mean_score(name, "nist|corpus:too small", [None] * len(corpus.texts), higher_is_better=True)
    nist = rewards.NIST(corpus=references)
    statistics = nist.statistics(corpus.texts, corpus.references or [])
    return _by_row(name, nist.signature, "nist", statistics, higher_is_better=True)


def _cider(name: str, corpus: Corpus) -> Score:
    references = corpus.references_by_prompt()
    if len(references) < 2:  # every n-gram is in all documents
        return mean_score(name, "cider-d|corpus:too small", [None] * len(corpus.texts), higher_is_better=True)
    cider = rewards.CIDErD(corpus=references)
    values = cider(completions=corpus.texts, references=corpus.references)
    return mean_score(name, cider.signature, values, higher_is_better=True)


def _rouge(name: str, corpus: Corpus) -> Score:
    return _percent(name, rewards.Rouge(name, use_stemmer=True), corpus)


def _meteor(name: str, corpus: Corpus) -> Score:
    return _percent(name, rewards.METEOR(), corpus)


REFERENCE_METRICS: dict[str, Callable[[str, Corpus], Score]] = {
    "bleu": _bleu,
    "bleu_e2e": _bleu,
    "nist": _nist,
    "chrf": _chrf,
    "ter": _ter,
    "rouge1": _rouge,
    "rouge2": _rouge,
    "rougeL": _rouge,
    "rougeLsum": _rouge,
    "meteor": _meteor,
    "cider": _cider,
}
"""Functions of the metric's name and a corpus that has references."""


def _by_row(name: str, signature: str, pooling: str, statistics: list[list[float]], higher_is_better: bool) -> Score:
    """Returns the score of statistics of which those of a single row make a score too."""
    row_scores = POOLINGS[pooling](np.asarray(statistics, dtype=np.float64)).tolist()
    return pooled_score(name, signature, pooling, statistics, row_scores, higher_is_better)


def _percent(name: str, reward: rewards.Reward, corpus: Corpus) -> Score:
    values = reward(completions=corpus.texts, references=corpus.references)
    scaled = [math.nan if value is None else 100 * value for value in values]
    return mean_score(name, reward.signature, scaled, higher_is_better=True)


def _signature(metric: Any, corpus: Corpus) -> str:
    counts = {len(references) for references in corpus.references or []}
    metric.num_refs = counts.pop() if len(counts) == 1 else -1  # -1: varies, in sacrebleu
    return str(metric.get_signature())
