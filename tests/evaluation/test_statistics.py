"""Scores of summed statistics against the libraries that sum their own."""

import math

import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from lmrl import rewards
from lmrl.evaluation.scores import Score, mean_score, per_prompt, pooled_score
from lmrl.evaluation.statistics import POOLINGS, pool
from lmrl.rewards.bleu import corpus_bleu

TEXT = st.lists(st.sampled_from(["a", "b", "c", "dd", "E.", "f,", ""]), max_size=9).map(" ".join)
CORPUS = st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=1, max_size=3)), min_size=1, max_size=4)


def split(corpus):
    texts, references = [text for text, _ in corpus], [golds for _, golds in corpus]
    most = max(map(len, references))
    return texts, references, [[row[i] if i < len(row) else None for row in references] for i in range(most)]


@pytest.mark.parametrize(
    ("pooling", "reward", "metric"),
    [
        ("bleu", rewards.BLEU(), sacrebleu.BLEU()),
        ("chrf", rewards.ChrF(), sacrebleu.CHRF()),
        ("chrf", rewards.ChrF(word_order=2), sacrebleu.CHRF(word_order=2)),
        ("ter", rewards.TER(), sacrebleu.TER()),
    ],
    ids=["bleu", "chrf", "chrf++", "ter"],
)
@given(corpus=CORPUS)
def test_pooled_scores_are_sacrebleu_s_corpus_scores(pooling, reward, metric, corpus):
    texts, references, streams = split(corpus)
    statistics = reward.statistics(texts, references)
    assert pool(pooling, statistics) == pytest.approx(metric.corpus_score(texts, streams).score, abs=1e-9)


@given(corpus=CORPUS)
def test_bleu_of_effective_order_is_sacrebleu_s_sentence_bleu(corpus):
    texts, references, _ = split(corpus)
    sentence = sacrebleu.BLEU(effective_order=True)
    expected = [sentence.sentence_score(text, golds).score for text, golds in corpus]
    got = corpus_bleu(np.array(rewards.BLEU().statistics(texts, references), dtype=float), effective_order=True)
    assert got == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("pooling", "reward", "of_pooled"),
    [
        ("chrf", rewards.ChrF(), lambda score: score / 100),
        ("ter", rewards.TER(), lambda score: 1 - min(score / 100, 1)),
        ("nist", rewards.NIST(corpus=[["a b c dd E. f, a b"]]), lambda score: score),
    ],
    ids=["chrf", "ter", "nist"],
)
@given(corpus=CORPUS)
def test_a_sentence_is_a_corpus_of_one_row(pooling, reward, of_pooled, corpus):
    texts, references, _ = split(corpus)
    pooled = [of_pooled(pool(pooling, [row])) for row in reward.statistics(texts, references)]
    assert reward(completions=texts, references=references) == pytest.approx(pooled, abs=1e-12)


def test_rates_of_no_rows_are_unknown():
    for pooling in ("mean", "ratio", "perplexity"):
        assert math.isnan(pool(pooling, [[0.0, 0.0]]))
        assert math.isnan(pool(pooling, []))
    assert pool("perplexity", [[math.log(8), 2.0], [math.log(2), 2.0]]) == pytest.approx(2)  # 16 ** (1 / 4)
    assert pool("ratio", [[1.0, 4.0], [2.0, 2.0]]) == 0.5


@pytest.mark.parametrize("pooling", POOLINGS)
def test_an_array_of_sums_is_scored_as_each_of_them_alone(pooling):
    sums = np.random.default_rng(0).integers(0, 5, size=(3, 7, {"bleu": 10, "chrf": 18, "nist": 11}.get(pooling, 2)))
    got = POOLINGS[pooling](sums.astype(float))
    assert got.shape == (3, 7)
    one_by_one = [[POOLINGS[pooling](row) for row in rows] for rows in sums.astype(float)]
    np.testing.assert_array_equal(got, np.array(one_by_one))


def test_a_row_without_a_score_adds_nothing_to_the_mean():
    score = mean_score("r", "", [1.0, None, 3.0], True)
    assert (score.value, score.pooling, score.statistics) == (2.0, "mean", [[1.0, 1.0], [0.0, 0.0], [3.0, 1.0]])
    assert mean_score("r", "", [1.0, math.inf], True).statistics is None
    assert mean_score("r", "", [], True).statistics == [] and math.isnan(mean_score("r", "", [], True).value)


def test_the_samples_of_a_prompt_become_one_row():
    rows = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]
    score = per_prompt(pooled_score("p", "s", "ratio", rows, [0.5, 0.75, math.nan, 0.875], False), 2)
    assert score.statistics == [[4.0, 6.0], [12.0, 14.0]]
    assert score.row_scores == [0.625, 0.875]
    assert score.value == 16 / 20
    assert per_prompt(score, 1) == score
    alone = Score("d", 1.0, "", None, True)
    assert per_prompt(alone, 2) == alone
