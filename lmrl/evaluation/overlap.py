"""Corpus metrics that compare completions with references, and what each row adds to them."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lmrl import rewards
from lmrl.rewards.bleu import corpus_bleu

from .scores import Score, mean_score, pooled_score
from .statistics import POOLINGS

Texts = list[str]
References = list[list[str]]


def _bleu(name: str, texts: Texts, references: References, rows: Sequence[int]) -> Score:
    from sacrebleu.metrics.bleu import BLEU

    lowercase = name == "bleu_e2e"
    statistics = rewards.BLEU(lowercase=lowercase).statistics(texts, references)
    row_scores = corpus_bleu(np.asarray(statistics, dtype=np.float64), effective_order=True).tolist()
    return pooled_score(
        name, _signature(BLEU(lowercase=lowercase), references), "bleu", statistics, row_scores, higher_is_better=True
    )


def _chrf(name: str, texts: Texts, references: References, rows: Sequence[int]) -> Score:
    from sacrebleu.metrics.chrf import CHRF

    statistics = rewards.ChrF().statistics(texts, references)
    return _by_row(name, _signature(CHRF(), references), "chrf", statistics, higher_is_better=True)


def _ter(name: str, texts: Texts, references: References, rows: Sequence[int]) -> Score:
    from sacrebleu.metrics.ter import TER

    statistics = rewards.TER().statistics(texts, references)
    return _by_row(name, _signature(TER(), references), "ter", statistics, higher_is_better=False)


def _nist(name: str, texts: Texts, references: References, rows: Sequence[int]) -> Score:
    corpus = _corpus(references, rows)
    if sum(len(gold.split()) for golds in corpus for gold in golds) < 2:  # no word is rarer than another
        return mean_score(name, "nist|corpus:too small", [None] * len(texts), higher_is_better=True)
    nist = rewards.NIST(corpus=corpus)
    return _by_row(name, nist.signature, "nist", nist.statistics(texts, references), higher_is_better=True)


def _cider(name: str, texts: Texts, references: References, rows: Sequence[int]) -> Score:
    corpus = _corpus(references, rows)
    if len(corpus) < 2:  # every n-gram is in all documents
        return mean_score(name, "cider-d|corpus:too small", [None] * len(texts), higher_is_better=True)
    cider = rewards.CIDErD(corpus=corpus)
    values = cider(completions=texts, references=references)
    return mean_score(name, cider.signature, values, higher_is_better=True)


def _rouge(name: str, texts: Texts, references: References, rows: Sequence[int]) -> Score:
    return _percent(name, rewards.Rouge(name, use_stemmer=True), texts, references)


def _meteor(name: str, texts: Texts, references: References, rows: Sequence[int]) -> Score:
    return _percent(name, rewards.METEOR(), texts, references)


OVERLAP: dict[str, Callable[[str, Texts, References, Sequence[int]], Score]] = {
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
"""Functions of the name, the texts, the references and the prompt of each row."""


def _by_row(name: str, signature: str, pooling: str, statistics: list[list[float]], higher_is_better: bool) -> Score:
    """Returns the score of statistics of which those of one row are a score too."""
    row_scores = POOLINGS[pooling](np.asarray(statistics, dtype=np.float64)).tolist()
    return pooled_score(name, signature, pooling, statistics, row_scores, higher_is_better)


def _percent(name: str, reward: rewards.Reward, texts: Texts, references: References) -> Score:
    values = reward(completions=texts, references=references)
    scaled = [math.nan if value is None else 100 * value for value in values]
    return mean_score(name, reward.signature, scaled, higher_is_better=True)


def _corpus(references: References, rows: Sequence[int]) -> References:
    """Returns the references of each prompt once, whatever the number of its samples."""
    return list(dict(zip(rows, references, strict=True)).values())


def _signature(metric: Any, references: References) -> str:
    counts = {len(golds) for golds in references}
    metric.num_refs = counts.pop() if len(counts) == 1 else -1  # sacrebleu's way to say: varies
    return str(metric.get_signature())
