"""Corpus metrics against the libraries that define them."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from lmrl.evaluation import Corpus, Score, bootstrap_interval, score_completions
from lmrl.evaluation.metrics import METRICS, REFERENCE_METRICS, higher_is_better
from lmrl.evaluation.scores import mean_score
from lmrl.evaluation.statistics import POOLINGS

TEXTS = ["The Eagle is a cheap coffee shop.", " It is near the river, cheap", "", "Yes."]
REFERENCES = [
    ["The Eagle is a coffee shop that is cheap.", "A cheap coffee shop is The Eagle."],
    ["it is near the river and cheap", "Near the river, it is cheap.", "Cheap, and near the river."],
    ["The Mill serves English food."],
    ["Yes.", "No."],
]


def score(texts, references, metrics=None, lengths=None, finished=None, rows=None):
    lengths = [len(text.split()) for text in texts] if lengths is None else lengths
    finished = [True] * len(texts) if finished is None else finished
    rows = range(len(texts)) if rows is None else rows
    return score_completions(Corpus(texts, references, rows, lengths, finished), metrics)


def streams(references):
    return [[row[i] if i < len(row) else None for row in references] for i in range(max(map(len, references)))]


def test_no_rows_raise():
    with pytest.raises(ValueError, match="`completions` must have at least 1 row, got 0"):
        score([], [])


def test_one_empty_completion_scores_zero():
    scores = score([""], [["a text"]], lengths=[1])
    for name in ("bleu", "bleu_e2e", "nist", "chrf", "rouge1", "rouge2", "rougeL", "rougeLsum", "meteor"):
        assert (scores[name].value, scores[name].row_scores) == (0.0, [0.0])
    assert score([""], [["a text"]], ["ter"])["ter"].value == 100.0
    assert score([""], [[""]], ["ter"])["ter"].value == 0.0
    for name in ("cider", "self_bleu"):  # neither can be had of a single row
        assert math.isnan(scores[name].value)
    assert math.isnan(scores["distinct1"].value)
    assert scores["length"].value == 1.0


def test_a_perfect_row_scores_a_hundred():
    scores = score(["one two three four five"], [["one two three four five"]])
    for name in ("bleu", "bleu_e2e", "chrf", "rouge1", "rouge2", "rougeL", "rougeLsum"):
        assert scores[name].value == pytest.approx(100)
        assert scores[name].row_scores == pytest.approx([100])


def test_without_references_only_metrics_of_the_text_are_computed():
    names = ["distinct1", "distinct2", "self_bleu", "repetition", "length", "unfinished"]
    assert list(score(TEXTS, None)) == names


def test_nist_and_cider_of_references_without_words_are_unknown():
    for name in ("nist", "cider"):
        assert math.isnan(score(["a"], [[""]], [name])[name].value)


@pytest.mark.parametrize(
    ("name", "metric", "sentence"),
    [
        ("bleu", sacrebleu.BLEU(), sacrebleu.BLEU(effective_order=True)),
        ("bleu_e2e", sacrebleu.BLEU(lowercase=True), sacrebleu.BLEU(lowercase=True, effective_order=True)),
        ("chrf", sacrebleu.CHRF(), sacrebleu.CHRF()),
        ("ter", sacrebleu.TER(), sacrebleu.TER()),
    ],
)
def test_pooled_scores_and_signatures_equal_those_of_sacrebleu(name, metric, sentence):
    got = score(TEXTS, REFERENCES, [name])[name]
    assert got.value == pytest.approx(metric.corpus_score(TEXTS, streams(REFERENCES)).score, abs=1e-9)
    assert got.signature == str(metric.get_signature())
    rows = [sentence.sentence_score(text, row).score for text, row in zip(TEXTS, REFERENCES, strict=True)]
    assert got.row_scores == pytest.approx(rows)
    assert abs(got.value - sum(rows) / len(rows)) > 1  # pooled, no mean of sentences
    assert got.higher_is_better == (name != "ter")


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL", "rougeLsum"])
def test_rouge_is_that_of_rouge_score(name):
    scorer = RougeScorer([name], use_stemmer=True)
    rows = [100 * scorer.score_multi(row, text)[name].fmeasure for text, row in zip(TEXTS, REFERENCES, strict=True)]
    got = score(TEXTS, REFERENCES)[name]
    assert got.row_scores == pytest.approx(rows)
    assert got.value == pytest.approx(sum(rows) / 4)


def test_the_example_of_the_e2e_challenge_has_the_scores_of_its_own_script(data_dir):
    folder = data_dir / "metric_refs/e2e_metrics"
    expected = json.loads((folder / "expected_scores.json").read_text())["e2e_devel10_baseline"]
    texts = (folder / "baseline-output.txt").read_text().splitlines()
    references = [block.splitlines() for block in (folder / "devel-conc.txt").read_text().split("\n\n") if block][:10]
    scores = score(texts, references, [*REFERENCE_METRICS, "ter"])
    assert scores["nist"].value == pytest.approx(expected["pymteval_NIST5"], abs=1e-10)
    assert scores["cider"].value == pytest.approx(expected["coco_CIDEr"], abs=1e-10)
    assert scores["cider"].row_scores == pytest.approx([s["coco_CIDEr"] for s in expected["sentences"]], abs=1e-10)
    assert scores["ter"].value == pytest.approx(expected["sacrebleu_TER"], abs=1e-10)
    assert scores["bleu_e2e"].value == pytest.approx(100 * expected["pymteval_BLEU4_lowercase"], abs=1e-10)
    assert scores["bleu"].value == pytest.approx(expected["sacrebleu_13a_cased"], abs=1e-10)
    assert scores["chrf"].value == pytest.approx(expected["sacrebleu_chrF2"], abs=1e-10)
    for name, value in expected["rouge_score_0.1.2_stemmed_best_ref_f_mean"].items():
        assert scores[name].value == pytest.approx(100 * value, abs=1e-10)
    rows = [sentence["sacrebleu_sentence_exp"] for sentence in expected["sentences"]]
    assert scores["bleu_e2e"].row_scores == pytest.approx(rows, abs=1e-10)


def test_distinct_is_the_share_of_different_ngrams_of_the_corpus():
    scores = score(["a b a b", "a c", ""], None)
    assert scores["distinct1"].value == 3 / 6  # a b c of a b a b a c
    assert scores["distinct2"].value == 3 / 4  # ab ba ac of ab ba ab ac


@pytest.mark.parametrize("texts", [["a b c d e", "a b c d f", "g h", "", "a b c d e"], ["one two", "one three two"]])
def test_self_bleu_is_the_mean_bleu_with_all_others_as_references(texts):
    metric = sacrebleu.BLEU(effective_order=True)
    others = [texts[:place] + texts[place + 1 :] for place in range(len(texts))]
    rows = [metric.sentence_score(text, rest).score for text, rest in zip(texts, others, strict=True)]
    got = score(texts, None)["self_bleu"]
    assert got.value == pytest.approx(sum(rows) / len(rows))
    assert got.pooling is None and got.higher_is_better is False
    assert "against:texts|most:500|seed:0" in got.signature
    of_one_prompt = score(texts, None, rows=[7] * len(texts))["self_bleu"]
    assert of_one_prompt.value == got.value and "against:samples" in of_one_prompt.signature


def test_self_bleu_of_samples_is_that_within_prompts():
    got = score(["a b c d", "a b c d", "x y z w", "q r s t"], None, rows=[0, 0, 1, 1])["self_bleu"]
    assert got.value == pytest.approx((100 + 100 + 0 + 0) / 4)


def test_self_bleu_of_many_texts_is_that_of_five_hundred_of_them():
    texts = ["same words in all of them"] * 400 + [f"a{i} b{i} c{i} d{i}" for i in range(1600)]
    got = score(texts, None, ["self_bleu"])["self_bleu"]
    assert got == score(texts, None, ["self_bleu"])["self_bleu"]
    assert got.value == pytest.approx(20, abs=5)  # 100 for the share of drawn texts that are the same


def test_repetition_is_the_mean_share_of_four_grams_that_occurred_before():
    got = score(["a b c d a b c d", "a b c", ""], None)["repetition"]  # abcd bcda cdab dabc abcd
    assert got.row_scores == pytest.approx([20, 0, 0])
    assert got.value == pytest.approx(20 / 3)


def test_the_weights_of_nist_and_cider_count_the_references_of_a_prompt_once():
    once = score(TEXTS, REFERENCES, ["nist", "cider"])
    twice = score([t for t in TEXTS for _ in (0, 1)], [r for r in REFERENCES for _ in (0, 1)], ["nist", "cider"])
    samples = score(
        [t for t in TEXTS for _ in (0, 1)],
        [r for r in REFERENCES for _ in (0, 1)],
        ["nist", "cider"],
        rows=[i for i in range(4) for _ in (0, 1)],
    )
    for name in ("nist", "cider"):
        assert samples[name].value == pytest.approx(once[name].value)
    assert abs(twice["cider"].value - once["cider"].value) > 1e-3  # of eight documents, not of four


@pytest.mark.parametrize("name", METRICS)
def test_summed_statistics_make_the_value(name):
    got = score(TEXTS, REFERENCES, [name], finished=[True, False, True, True])[name]
    if name in ("distinct1", "distinct2", "self_bleu"):
        assert got.pooling is None and got.statistics is None
        return
    sums = [sum(column) for column in zip(*got.statistics, strict=True)]
    assert POOLINGS[got.pooling](np.array(sums, dtype=float)) == pytest.approx(got.value)
    assert len(got.statistics) == len(got.row_scores) == 4
    assert Score(**json.loads(json.dumps(asdict(got)))) == got


def test_a_metric_added_to_the_registry_is_computed_by_its_name(monkeypatch):
    def words(name, corpus):
        return mean_score(name, "tok:whitespace", [float(len(text.split())) for text in corpus.texts], None)

    monkeypatch.setitem(METRICS, "words", words)
    got = score(["a b", "c d e"], None, ["length", "words"], lengths=[9, 9])
    assert (got["words"].value, got["words"].row_scores, got["length"].value) == (2.5, [2.0, 3.0], 9.0)
    assert bootstrap_interval(got["words"]).low >= 2.0


def test_length_and_unfinished_are_means_over_completions():
    scores = score(["a", "b"], None, lengths=[2, 5], finished=[True, False])
    assert (scores["length"].value, scores["length"].row_scores) == (3.5, [2.0, 5.0])
    assert (scores["unfinished"].value, scores["unfinished"].row_scores) == (0.5, [0.0, 1.0])


def test_the_direction_of_a_score_is_known_by_its_name_before_it_is_measured():
    lower = {"ter", "self_bleu", "repetition", "unfinished", "perplexity", "own_perplexity"}
    neither = {"length", "kl"}
    for name in [*METRICS, "perplexity", "own_perplexity", "kl", "reward/ter"]:
        assert higher_is_better(name) is (None if name in neither else name not in lower), name
    measured = score(TEXTS, REFERENCES)
    assert {name: higher_is_better(name) for name in measured} == {n: s.higher_is_better for n, s in measured.items()}
    with pytest.raises(ValueError, match=r"`metric` must be one of reward, .*, got 'blue'. Did you mean `bleu`?"):
        higher_is_better("blue")


def test_only_the_metrics_named_are_computed():
    assert list(score(TEXTS, REFERENCES, metrics=["length", "bleu"])) == ["length", "bleu"]


@pytest.mark.parametrize(
    ("references", "metrics", "message"),
    [
        ([["a"]], None, "`references` must have one entry per completion, got 1 for 2"),
        ([["a"], []], None, r"`references` of row 1 must be a list of at least 1 text, got \[\]"),
        (["a", "b"], None, "`references` of row 0 must be .*, got 'a'. Wrap"),
        (None, ["bleu"], "`references` must be given for the metric 'bleu'"),
        (None, ["blue"], "`metrics` must be one of .*, got 'blue'. Did you mean `bleu`"),
    ],
)
def test_rows_that_do_not_match_raise(references, metrics, message):
    with pytest.raises(ValueError, match=message):
        score(["a", "b"], references, metrics)


def test_other_numbers_of_lengths_or_flags_raise():
    with pytest.raises(ValueError, match="`lengths` must have one entry per completion, got 1 for 2"):
        score(["a", "b"], None, lengths=[1])
    with pytest.raises(ValueError, match="`finished` must have one entry per completion, got 3 for 2"):
        score(["a", "b"], None, finished=[True] * 3)
