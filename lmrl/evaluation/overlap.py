"""Corpus metrics that compare completions with references, with the statistics that each row adds to them."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from lmrl import rewards
from lmrl.libraries import sacrebleu
from lmrl.rewards.bleu import corpus_bleu

from .scores import Corpus, Score, mean_score, pooled_score
from .statistics import POOLINGS


def _sacrebleu(name: str, corpus: Corpus) -> Score:
    """Returns a metric of sacrebleu: lmrl's reward gives the statistics, sacrebleu's class the signature."""
    parts: dict[str, tuple[str, Any, Any]] = {
        "bleu": ("bleu", rewards.BLEU(), sacrebleu.BLEU()),
        "bleu_e2e": ("bleu", rewards.BLEU(lowercase=True), sacrebleu.BLEU(lowercase=True)),
        "chrf": ("chrf", rewards.ChrF(), sacrebleu.CHRF()),
        "ter": ("ter", rewards.TER(), sacrebleu.TER()),
    }
    pooling, reward, metric = parts[name]
    counts = {len(references) for references in corpus.references or []}
    metric.num_refs = counts.pop() if len(counts) == 1 else -1  # -1: varies, in sacrebleu
    statistics = reward.statistics(corpus.texts, corpus.references or [])
    return _summed(name, str(metric.get_signature()), pooling, statistics, higher_is_better=name != "ter")


def _nist(name: str, corpus: Corpus) -> Score:
    references = corpus.references_by_prompt()
    if sum(len(text.split()) for texts in references for text in texts) < 2:  # too few words to weight
        return mean_score(name, "nist|corpus:too small", [None] * len(corpus.texts), higher_is_better=True)
    nist = rewards.NIST(corpus=references)
    statistics = nist.statistics(corpus.texts, corpus.references or [])
    return _summed(name, nist.signature, "nist", statistics, higher_is_better=True)


def _cider(name: str, corpus: Corpus) -> Score:
    references = corpus.references_by_prompt()
    if len(references) < 2:  # every n-gram is in all documents
        return mean_score(name, "cider-d|corpus:too small", [None] * len(corpus.texts), higher_is_better=True)
    cider = rewards.CIDErD(corpus=references)
    values = cider(completions=corpus.texts, references=corpus.references)
    return mean_score(name, cider.signature, values, higher_is_better=True)


def _percent(name: str, corpus: Corpus) -> Score:
    """Returns the mean of a reward in [0, 1] over rows, in percent."""
    reward = rewards.METEOR() if name == "meteor" else rewards.Rouge(name, use_stemmer=True)
    values = reward(completions=corpus.texts, references=corpus.references)
    scaled = [math.nan if value is None else 100 * value for value in values]
    return mean_score(name, reward.signature, scaled, higher_is_better=True)


REFERENCE_METRICS: dict[str, Callable[[str, Corpus], Score]] = {
    "bleu": _sacrebleu,
    "bleu_e2e": _sacrebleu,
    "nist": _nist,
    "chrf": _sacrebleu,
    "ter": _sacrebleu,
    "rouge1": _percent,
    "rouge2": _percent,
    "rougeL": _percent,
    "rougeLsum": _percent,
    "meteor": _percent,
    "cider": _cider,
}
"""Functions of the metric's name and a corpus that has references."""


def _summed(name: str, signature: str, pooling: str, statistics: list[list[float]], higher_is_better: bool) -> Score:
    """Returns the score of the summed statistics; the row scores are those of each row's own statistics."""
    rows = np.asarray(statistics, dtype=np.float64)
    values = corpus_bleu(rows, effective_order=True) if pooling == "bleu" else POOLINGS[pooling](rows)
    return pooled_score(name, signature, pooling, statistics, values.tolist(), higher_is_better)
