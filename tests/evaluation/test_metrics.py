"""Corpus metrics against the libraries that define them."""

import json
import math

import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from lmrl.evaluation import score_completions

TEXTS = ["The Eagle is a cheap coffee shop.", " It is near the river, cheap", "", "Yes."]
REFERENCES = [
    ["The Eagle is a coffee shop that is cheap.", "A cheap coffee shop is The Eagle."],
    ["it is near the river and cheap", "Near the river, it is cheap.", "Cheap, and near the river."],
    ["The Mill serves English food."],
    ["Yes.", "No."],
]


def score(texts, references, metrics=None, lengths=None, finished=None):
    lengths = [len(text.split()) for text in texts] if lengths is None else lengths
    finished = [True] * len(texts) if finished is None else finished
    return score_completions(texts, references, lengths=lengths, finished=finished, metrics=metrics)


def streams(references):
    return [[row[i] if i < len(row) else None for row in references] for i in range(max(map(len, references)))]


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="0 completions"):
        score([], [])


def test_one_empty_completion_scores_zero():
    scores = score([""], [["a text"]], lengths=[1])
    for name in ("bleu", "bleu_e2e", "chrf", "rouge1", "rouge2", "rougeL", "rougeLsum"):
        assert scores[name].value == 0.0
    assert scores["bleu"].row_scores == [0.0]
    assert math.isnan(scores["distinct1"].value)
    assert scores["length"].value == 1.0


def test_a_perfect_row_scores_a_hundred():
    scores = score(["one two three four five"], [["one two three four five"]])
    for name in ("bleu", "bleu_e2e", "chrf", "rouge1", "rouge2", "rougeL", "rougeLsum"):
        assert scores[name].value == pytest.approx(100)
        assert scores[name].row_scores == pytest.approx([100])


def test_without_references_only_metrics_of_the_text_are_given():
    assert list(score(TEXTS, None)) == ["distinct1", "distinct2", "length", "unfinished"]


@pytest.mark.parametrize(
    ("name", "metric", "sentence"),
    [
        ("bleu", sacrebleu.BLEU(), sacrebleu.BLEU(effective_order=True)),
        ("bleu_e2e", sacrebleu.BLEU(lowercase=True), sacrebleu.BLEU(lowercase=True, effective_order=True)),
        ("chrf", sacrebleu.CHRF(), sacrebleu.CHRF()),
    ],
)
def test_pooled_scores_and_signatures_are_sacrebleu_s(name, metric, sentence):
    got = score(TEXTS, REFERENCES)[name]
    assert got.value == metric.corpus_score(TEXTS, streams(REFERENCES)).score
    assert got.signature == str(metric.get_signature())
    rows = [sentence.sentence_score(text, row).score for text, row in zip(TEXTS, REFERENCES, strict=True)]
    assert got.row_scores == pytest.approx(rows)
    assert abs(got.value - sum(rows) / len(rows)) > 1  # pooled, no mean of sentences


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL", "rougeLsum"])
def test_rouge_is_that_of_rouge_score(name):
    scorer = RougeScorer([name], use_stemmer=True)
    rows = [100 * scorer.score_multi(row, text)[name].fmeasure for text, row in zip(TEXTS, REFERENCES, strict=True)]
    got = score(TEXTS, REFERENCES)[name]
    assert got.row_scores == pytest.approx(rows)
    assert got.value == pytest.approx(sum(rows) / 4)


def test_the_e2e_challenge_s_example_scores_as_its_own_script(shared):
    folder = shared / "metric_refs/e2e_metrics"
    expected = json.loads((folder / "expected_scores.json").read_text())["e2e_devel10_baseline"]
    texts = (folder / "baseline-output.txt").read_text().splitlines()
    references = [block.splitlines() for block in (folder / "devel-conc.txt").read_text().split("\n\n") if block][:10]
    scores = score(texts, references)
    assert scores["bleu_e2e"].value == pytest.approx(100 * expected["pymteval_BLEU4_lowercase"], abs=1e-10)
    assert scores["bleu"].value == pytest.approx(expected["sacrebleu_13a_cased"], abs=1e-10)
    assert scores["chrf"].value == pytest.approx(expected["sacrebleu_chrF2"], abs=1e-10)
    for name, value in expected["rouge_score_0.1.2_stemmed_best_ref_f_mean"].items():
        assert scores[name].value == pytest.approx(100 * value, abs=1e-10)
    rows = [sentence["sacrebleu_sentence_exp"] for sentence in expected["sentences"]]
    assert scores["bleu_e2e"].row_scores == pytest.approx(rows, abs=1e-10)


def test_distinct_counts_different_ngrams_over_the_corpus():
    scores = score(["a b a b", "a c", ""], None)
    assert scores["distinct1"].value == 3 / 6  # a b c of a b a b a c
    assert scores["distinct2"].value == 3 / 4  # ab ba ac of ab ba ab ac


def test_length_and_unfinished_are_means_of_what_generation_counted():
    scores = score(["a", "b"], None, lengths=[2, 5], finished=[True, False])
    assert (scores["length"].value, scores["length"].row_scores) == (3.5, [2.0, 5.0])
    assert (scores["unfinished"].value, scores["unfinished"].row_scores) == (0.5, [0.0, 1.0])


def test_only_the_metrics_asked_for_are_computed():
    assert list(score(TEXTS, REFERENCES, metrics=["length", "bleu"])) == ["length", "bleu"]


@pytest.mark.parametrize(
    ("references", "metrics", "message"),
    [
        ([["a"]], None, "2 completions but 1 references"),
        ([["a"], []], None, r"references of row 1 are \[\]"),
        (["a", "b"], None, "references of row 0 are 'a'.*Wrap"),
        (None, ["bleu"], "'bleu' needs references"),
        (None, ["blue"], "Unknown metric 'blue'"),
    ],
)
def test_rows_that_do_not_match_are_refused(references, metrics, message):
    with pytest.raises(ValueError, match=message):
        score(["a", "b"], references, metrics)


def test_other_numbers_of_lengths_or_flags_are_refused():
    with pytest.raises(ValueError, match="1 lengths"):
        score(["a", "b"], None, lengths=[1])
    with pytest.raises(ValueError, match="3 finished"):
        score(["a", "b"], None, finished=[True] * 3)
