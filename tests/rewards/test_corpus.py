"""CIDEr-D and NIST: n-grams weighed by a training corpus, against the scorers that define them."""

import json
import math
import pickle
from collections import Counter

import numpy as np
import pytest
from nltk.translate.nist_score import corpus_nist
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from lmrl.rewards import NIST, CIDErD, make_reward
from lmrl.rewards.corpus import nist_score

EXACT = 1e-9
CORPUS = [
    ["a man riding a horse on the beach", "a man on a horse near the sea"],
    ["the dog"],
    ["nothing here", "at all"],
    ["a cat sits on the mat", "a black cat ."],
    ["three women sleep at home"],
]
TEXTS = ["a man rides a horse on the beach", "the dog", "", "a cat . a cat . a cat .", "two men eat"]


@pytest.fixture(params=[CIDErD, NIST])
def reward(request):
    return request.param(CORPUS)


def pooled(nist, completions, references):
    return nist_score(np.sum(nist.statistics(completions, references), axis=0))


def test_cider_d_is_that_of_the_coco_caption_evaluation():
    """Figures of pycocoevalcap 1.2, whose documents are the references passed in."""
    expected = [4.199995684700175, 5.0, 0.0, 0.6329723214815361, 0.0]
    assert CIDErD(CORPUS)(completions=TEXTS, references=CORPUS) == pytest.approx(expected, abs=EXACT)


def test_cider_d_by_hand():
    """Of 2 documents, 1 has "c": idf log 2; both have "a": 0. Words c, c against c: clipped cosine 1 / 2."""
    reward = CIDErD([["a c"], ["a b"]])
    expected = 10 / 4 * (1 / 2) * math.exp(-(1**2) / (2 * 6**2))
    assert reward(completions=["c c"], references=["c"]) == pytest.approx([expected], abs=EXACT)
    assert reward(completions=["a"], references=["a"]) == [0.0]


def test_cider_d_takes_the_mean_over_the_references():
    reward = CIDErD(CORPUS)
    one, other = reward(completions=["the dog sleeps"] * 2, references=["the dog", "three dogs"])
    assert reward(completions=["the dog sleeps"], references=[["the dog", "three dogs"]]) == pytest.approx(
        [(one + other) / 2], abs=EXACT
    )


def test_cider_d_of_a_long_copy_is_ten():
    """No more, though rounding would take it above."""
    text = "three women sleep at home ."
    assert CIDErD(CORPUS)(completions=[text], references=[text]) == pytest.approx([10.0], abs=EXACT)
    assert CIDErD(CORPUS)(completions=[text], references=[text])[0] <= 10


def test_nist_by_hand():
    """Words 4: info of a is log2(4 / 2), of c log2(4 / 1); "a c" follows one of two a's; c / r = 2 / 3."""
    nist = NIST([["a b a c"]])
    assert nist(completions=["a c"], references=["a c"]) == pytest.approx([(1 + 2) / 2 + 1], abs=EXACT)
    assert nist(completions=["a c"], references=["a c d"]) == pytest.approx([((1 + 2) / 2 + 1) / 2], abs=EXACT)
    assert nist.statistics(["a c"], ["a c d"]) == [[3, 1, 0, 0, 0, 2, 1, 0, 0, 0, 3]]


def test_nist_counts_a_word_as_often_as_the_reference_that_has_it_most():
    """2 of 4 a's at 1 bit each, no bigram; the mean length of the references is 4."""
    score = NIST([["a b a c"]])(completions=["a a a a"], references=[["a b a", "a b c d e"]])
    assert score == pytest.approx([2 / 4], abs=EXACT)


def test_a_word_the_corpus_lacks_informs_like_one_it_has_once():
    assert NIST([["a b a c"]])(completions=["x", "c"], references=["x", "c"]) == [2.0, 2.0]


def test_nist_with_one_reference_a_row_is_that_of_nltk(cases):
    tokenizer = Tokenizer13a()
    rows = [(text, references[0]) for text, references in cases if references[0].strip()]
    tokens = [[tokenizer(text.lower().rstrip()).split() for text in row] for row in rows]
    expected = corpus_nist([[reference] for _, reference in tokens], [text for text, _ in tokens])
    completions, references = [text for text, _ in rows], [[reference] for _, reference in rows]
    assert pooled(NIST(references), completions, references) == pytest.approx(expected, abs=EXACT)


def test_pooled_statistics_of_one_row_are_its_reward(cases):
    nist = NIST([references for _, references in cases])
    for text, references in cases[:40]:
        assert nist(completions=[text], references=[references]) == [pooled(nist, [text], [references])]


@pytest.mark.parametrize(
    ("text", "references"),
    [("", ["the dog"]), ("the dog", [""]), ("", [""]), (" \n", ["a", " "]), ("x", ["the dog"]), ("猫", ["犬 é"])],
)
def test_nothing_in_common_is_zero(reward, text, references):
    assert reward(completions=[text], references=[references]) == [0.0]


@pytest.mark.parametrize("text", ["x", ".", "?!", "猫", "Café — “déjà vu”", "the dog"])
def test_anything_in_common_is_more(reward, text):
    copy, other = reward(completions=[text, "none of it"], references=[[text]] * 2)
    assert copy > other == 0.0


def test_scores_lie_in_the_stated_range(reward, cases):
    low, high = reward.range
    scores = reward(completions=[text for text, _ in cases], references=[references for _, references in cases])
    assert all(low <= score <= high for score in scores)


def test_a_score_depends_on_its_own_row_alone(reward, cases):
    """Neither on the order of a batch nor on what else is in it."""
    completions, references = [text for text, _ in cases], [references for _, references in cases]
    scores = reward(completions=completions, references=references)
    assert reward(completions=completions[::-1], references=references[::-1]) == scores[::-1]
    alone = [reward(completions=[text], references=[row])[0] for text, row in cases[:30]]
    assert alone == scores[:30]


def test_case_counts_only_where_set(reward):
    strict = type(reward)(CORPUS, lowercase=False)
    assert reward(completions=["The DOG"], references=["the dog"]) == reward(
        completions=["the dog"], references=["the dog"]
    )
    assert strict(completions=["The DOG"], references=["the dog"]) == [0.0]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("train.jsonl", "\n \n".join(json.dumps({"id": 0, "refs": row}) for row in CORPUS) + "\n"),
        ("train.json", json.dumps([{"refs": row} for row in CORPUS])),
        ("marked.json", "\ufeff" + json.dumps([{"refs": row} for row in CORPUS])),
    ],
)
def test_a_corpus_comes_as_a_file_or_as_lists(reward, tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    config = {reward.__name__: {"corpus": str(tmp_path / name), "corpus_column": "refs"}}
    from_file = make_reward(config)
    assert from_file.signature == reward.signature
    assert from_file(completions=TEXTS, references=CORPUS) == reward(completions=TEXTS, references=CORPUS)


def test_a_reward_pickles_with_its_counts(reward):
    copy = pickle.loads(pickle.dumps(reward))
    assert copy.counts == reward.counts
    assert copy(completions=TEXTS, references=CORPUS) == reward(completions=TEXTS, references=CORPUS)


def test_counts_are_of_documents_for_cider_and_of_occurrences_for_nist():
    corpus = [["a b", "a b"], ["a"]]
    assert CIDErD(corpus).counts == {("a",): 2}
    assert Counter(NIST(corpus).counts) == {(): 5, ("a",): 3, ("b",): 2, ("a", "b"): 2}


def test_another_corpus_has_another_signature(reward):
    assert type(reward)([*CORPUS[1:], ["other"]]).signature != reward.signature


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ([["a b"], []], r"got \[\] in row 1"),
        ([["a b"], None], "got None in row 1"),
        ([["a b"], [1]], r"got \[1\] in row 1"),
        ("nowhere.jsonl", "got nowhere.jsonl"),
    ],
)
def test_a_wrong_corpus_is_refused(reward, corpus, message):
    with pytest.raises(ValueError, match=message):
        type(reward)(corpus)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"references": ["a b"]}\nnot', "`corpus` must be JSONL, got .*train.jsonl"),
        ('{"references": ["a b"]}\n{"target": "a"}', r"Row 1 .*'references'.*\['target'\].*corpus_column"),
        ("[1]", r"Row 0 .* must have the column 'references', got \[1\]"),
    ],
)
def test_a_wrong_corpus_file_is_refused(reward, tmp_path, text, message):
    (tmp_path / "train.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        type(reward)(tmp_path / "train.jsonl")


def test_a_corpus_that_is_no_list_is_refused_by_its_name(reward, tmp_path):
    (tmp_path / "train.json").write_text("3")
    with pytest.raises(ValueError, match=r"`corpus` must be JSON, got .*train\.json \(no list of rows\)"):
        type(reward)(tmp_path / "train.json")


def test_a_corpus_in_another_encoding_is_refused_by_its_name(reward, tmp_path):
    (tmp_path / "train.json").write_bytes('[{"references": "Wörter"}]'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"`corpus` must be JSON, got .*train\.json \('utf-8' codec"):
        type(reward)(tmp_path / "train.json")


def test_a_corpus_too_small_to_weigh_by_is_refused():
    with pytest.raises(ValueError, match="at least 2 documents, got 1"):
        CIDErD([["a b", "c"]])
    with pytest.raises(ValueError, match="at least 2 words"):
        NIST([["a"]])


def test_an_unknown_tokenizer_is_refused(reward):
    with pytest.raises(ValueError, match=r"tokenize.*13a.*ptb"):
        type(reward)(CORPUS, tokenize="ptb")
