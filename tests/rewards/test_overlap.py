"""BLEU, chrF and ROUGE are those of the libraries that define them, to rounding, on any text."""

import warnings
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU as SacreBLEU
from sacrebleu.metrics.chrf import CHRF as SacreCHRF

from lmrl.rewards import BLEU, ChrF, ExactMatch, Rouge
from lmrl.rewards.grams import SacrebleuTokens

pytestmark = pytest.mark.filterwarnings("ignore:The reward .* reads the letters a-z")
EXACT = 1e-9
BLEUS = [
    {},
    {"smooth_method": "floor"},
    {"smooth_method": "floor", "smooth_value": 0.5},
    {"smooth_method": "add-k"},
    {"smooth_method": "add-k", "smooth_value": 2},
    {"smooth_method": "none"},
    {"effective_order": False},
    {"lowercase": True},
    {"tokenize": "intl"},
    {"tokenize": "char"},
    {"tokenize": "none", "smooth_method": "add-k", "effective_order": False},
]
CHRFS = [{}, {"word_order": 2}, {"word_order": 1, "lowercase": True}, {"char_order": 3, "beta": 1}]
ROUGES = [(name, stem) for name in ("rouge1", "rouge2", "rouge3", "rougeL", "rougeLsum") for stem in (False, True)]
METRICS = [BLEU(), ChrF(), ChrF(word_order=2), *(Rouge(*rouge) for rouge in ROUGES), ExactMatch()]


def scores(reward, cases):
    return reward(completions=[text for text, _ in cases], references=[references for _, references in cases])


@pytest.mark.parametrize("options", BLEUS, ids=str)
def test_bleu_is_the_sentence_bleu_of_sacrebleu(options, cases):
    library = SacreBLEU(**{"effective_order": True, **options})
    expected = [library.sentence_score(*case).score / 100 for case in cases]
    assert scores(BLEU(**options), cases) == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize("options", CHRFS, ids=str)
def test_chrf_is_the_sentence_chrf_of_sacrebleu(options, cases):
    library = SacreCHRF(**options)
    expected = [library.sentence_score(*case).score / 100 for case in cases]
    assert scores(ChrF(**options), cases) == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize(("name", "stem"), ROUGES)
def test_rouge_is_the_best_f_measure_of_rouge_score(name, stem, cases):
    library = RougeScorer([name], use_stemmer=stem)
    expected = [library.score_multi(references, text)[name].fmeasure for text, references in cases]
    assert scores(Rouge(name, use_stemmer=stem), cases) == pytest.approx(expected, abs=EXACT)


def test_mean_rouge_is_the_mean_over_the_references(cases):
    library = RougeScorer(["rougeL"])
    expected = [
        sum(library.score(reference, text)["rougeL"].fmeasure for reference in references) / len(references)
        for text, references in cases
    ]
    assert scores(Rouge("rougeL", aggregate="mean"), cases) == pytest.approx(expected, abs=EXACT)


@settings(max_examples=60)
@given(text=st.text(max_size=40), references=st.lists(st.text(max_size=40), min_size=1, max_size=3))
def test_any_unicode_text_scores_as_in_the_libraries(text, references):
    case = [(text, references)]
    bleu = SacreBLEU(effective_order=True).sentence_score(text, references).score / 100
    chrf = SacreCHRF(word_order=2).sentence_score(text, references).score / 100
    rouge = RougeScorer(["rouge1", "rougeLsum"], use_stemmer=True).score_multi(references, text)
    assert scores(BLEU(), case) == pytest.approx([bleu], abs=EXACT)
    assert scores(ChrF(word_order=2), case) == pytest.approx([chrf], abs=EXACT)
    for name, score in rouge.items():
        assert scores(Rouge(name, use_stemmer=True), case) == pytest.approx([score.fmeasure], abs=EXACT)


@settings(max_examples=100)
@given(
    text=st.lists(st.sampled_from("ab\nc"), max_size=14).map(" ".join),
    reference=st.lists(st.sampled_from("ab\nd"), max_size=14).map(" ".join),
)
def test_rouge_lsum_chooses_among_equal_subsequences_as_rouge_score_does(text, reference):
    expected = RougeScorer(["rougeLsum"]).score(reference, text)["rougeLsum"].fmeasure
    assert scores(Rouge("rougeLsum"), [(text, [reference])]) == pytest.approx([expected], abs=EXACT)


@pytest.mark.parametrize("metric", METRICS, ids=repr)
def test_scores_lie_in_the_stated_range(metric, cases):
    low, high = metric.range
    assert all(low <= score <= high for score in scores(metric, cases))


@pytest.mark.parametrize("metric", METRICS, ids=repr)
def test_a_text_identical_to_a_reference_scores_one(metric):
    text = "the cat sat on the mat."
    assert scores(metric, [(text, ["no", text])]) == pytest.approx([1.0], abs=EXACT)


@pytest.mark.parametrize("metric", METRICS, ids=repr)
def test_permuting_rows_permutes_rewards(metric, cases):
    assert scores(metric, cases[::-1]) == scores(metric, cases)[::-1]


@pytest.mark.parametrize("metric", [ChrF(), *(Rouge(*rouge) for rouge in ROUGES), ExactMatch()], ids=repr)
def test_adding_a_reference_never_lowers_the_best(metric, cases):
    more = [(text, [*references, "one more a reference"]) for text, references in cases]
    assert all(after >= before for before, after in zip(scores(metric, cases), scores(metric, more), strict=True))


def test_bleu_counts_a_word_as_often_as_the_reference_that_has_it_most():
    """4 of 4 words, 3 of 3 bigrams, 0 of 2 trigrams and 0 of 1 4-grams, smoothed to 1/2 of 1/2 and 1/4 of 1."""
    (score,) = BLEU()(completions=["a a b b"], references=[["a a x b", "b b x a b"]])
    assert score == pytest.approx((1 * 1 * 1 / 4 * 1 / 4) ** (1 / 4), abs=EXACT)


def test_bleu_of_one_matching_word_is_above_zero():
    """The reward has a slope from the first matching word on."""
    assert 0 < scores(BLEU(), [("cat", ["the cat sat on the mat"])])[0] < 0.1


def test_duplicate_prompts_with_different_texts_have_their_own_scores():
    assert scores(ExactMatch(), [("a", ["a"]), ("b", ["a"])]) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("normalize", "text", "reference", "score"),
    [
        ("strip", " Paris\n", "Paris", 1.0),
        ("strip", "paris", "Paris", 0.0),
        ("strip", "", " ", 1.0),
        ("squad", "The  Eiffel-Tower!", "eiffeltower", 1.0),
        ("squad", "a theatre", "Theatre.", 1.0),
        ("squad", "an atheist", "theist", 0.0),
    ],
)
def test_exact_match_compares_after_normalisation(normalize, text, reference, score):
    assert scores(ExactMatch(normalize=normalize), [(text, ["other", reference])]) == [score]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BLEU(smooth_method="laplace"), "smooth_method.*add-k.*laplace"),
        (lambda: BLEU(smooth_method="floor", smooth_value=-0.1), "`smooth_value` must be at least 0, got -0.1"),
        (lambda: BLEU(smooth_value=0.1), "`smooth_value` must be None with smoothing by 'exp', got 0.1"),
        (lambda: BLEU(tokenize="13b"), "tokenize.*13a.*13b"),
        (lambda: BLEU(cache_size=0), "cache_size.*0"),
        (lambda: ChrF(char_order=0), "char_order.*chrF"),
        (lambda: Rouge("rouge0"), "rouge_type.*rouge0"),
        (lambda: Rouge("rougeW"), "rouge_type.*rougeW"),
        (lambda: Rouge("rougeL", tokenize="words"), "`tokenize` must be one of .*words"),
        (lambda: Rouge("rougeL", use_stemmer=True, tokenize="zh"), "`use_stemmer` must be False with `tokenize`"),
        (lambda: Rouge("rougeL", aggregate="max"), "aggregate.*best.*max"),
        (lambda: ExactMatch(normalize="lower"), "normalize.*squad.*lower"),
    ],
)
def test_a_wrong_option_is_refused_at_construction(make, message):
    with pytest.raises(ValueError, match=message):
        make()


FOREIGN = {
    "Садовник чинит красный чайник .": "13a",
    "园丁在院子里修理红色的水壶。": "zh",
    "정원사가 마당에서 빨간 주전자를 고친다 .": "char",
}


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL", "rougeLsum"])
def test_rouge_of_other_scripts_is_that_of_rouge_score_with_a_tokenizer(name):
    for text, tokenizer in FOREIGN.items():
        words = SacrebleuTokens(tokenizer, lowercase=True)
        library = RougeScorer([name], tokenizer=SimpleNamespace(tokenize=words))
        pairs = [(text, [text]), (text[: len(text) // 2], [text]), (text, ["other"])]
        expected = [library.score_multi(references, other)[name].fmeasure for other, references in pairs]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            got = scores(Rouge(name, tokenize=tokenizer), pairs)
            assert scores(Rouge(name, tokenize=SimpleNamespace(tokenize=words)), pairs) == got
        assert got == pytest.approx(expected, abs=EXACT)
        assert got[0] == 1.0 > got[1] > 0.0


def test_rouge_warns_once_of_references_without_latin_letters():
    reward = Rouge("rougeL")
    for text in FOREIGN:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert scores(reward, [(text, [text])]) == [0.0]
            assert scores(reward, [("the kettle", ["Le jardinier répare la théière, 42 €."])]) == [0.0]
        messages = [str(warning.message) for warning in caught]
        assert len(messages) == (text.startswith("Садовник"))
        assert all("little of the reference 'Садовник чинит" in message for message in messages)
    assert Rouge("rougeL", tokenize="zh").signature == "rougeL|nrefs:var|agg:best|tok:zh|case:lc|as:rouge_score-0.1.2"
