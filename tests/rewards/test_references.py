"""GLEU, TER, METEOR, token F1 and edit similarity are those of other libraries, to rounding, on any text."""

import os
import pickle
import subprocess
import sys
from types import SimpleNamespace

import nltk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.metrics.distance import edit_distance
from nltk.translate.gleu_score import sentence_gleu
from nltk.translate.meteor_score import meteor_score
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.ter import TER as SacreTER
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from sacrebleu.tokenizers.tokenizer_char import TokenizerChar

from lmrl.rewards import GLEU, METEOR, TER, EditSimilarity, TokenF1

EXACT = 1e-9
TERS = [
    {},
    {"normalized": True},
    {"no_punct": True, "case_sensitive": True},
    {"normalized": True, "no_punct": True, "asian_support": True},
]
METEORS = [{}, {"alpha": 0.5, "beta": 1.0, "gamma": 1.0}, {"alpha": 1.0, "beta": 0.0, "gamma": 0.2}]
BEST_OF = [
    GLEU(),
    GLEU(lowercase=True, tokenize="char"),
    METEOR(),
    TokenF1(),
    TokenF1(normalize="strip"),
    EditSimilarity(),
    EditSimilarity(unit="words"),
]
METRICS = [*BEST_OF, TER(), TER(normalized=True, no_punct=True)]
TOKENIZER_13A = Tokenizer13a()
NO_WORDNET = SimpleNamespace(synsets=lambda word: [])

text = st.lists(st.sampled_from(["a", "b", "B", ".", "ran", "runs", "ß", "\n", "猫"]), max_size=12).map(" ".join)
any_text = st.one_of(text, st.text(max_size=40))


def scores(reward, cases):
    return reward(completions=[text for text, _ in cases], references=[references for _, references in cases])


def tokens(text, tokenizer=TOKENIZER_13A):
    return tokenizer(text.rstrip()).split()


def gleu_of_nltk(text, references):
    return sentence_gleu([tokens(reference) for reference in references], tokens(text))


def meteor_of_nltk(text, references, **options):
    return meteor_score([tokens(reference) for reference in references], tokens(text), wordnet=NO_WORDNET, **options)


def f1_of_rouge_score(text, references):
    """ROUGE-1 of words is the F1, but for texts without words."""
    scorer = RougeScorer(["rouge1"], tokenizer=SimpleNamespace(tokenize=str.split))
    both_empty = not text.split() and not all(map(str.split, references))
    return 1.0 if both_empty else scorer.score_multi(references, text)["rouge1"].fmeasure


def similarity_of_nltk(a, b):
    return 1 - edit_distance(a, b) / max(len(a), len(b), 1)


def test_gleu_is_the_sentence_gleu_of_nltk(cases):
    assert scores(GLEU(), cases) == pytest.approx([gleu_of_nltk(*case) for case in cases], abs=EXACT)


def test_gleu_tokenizes_as_configured(cases):
    def split(text):
        return tokens(text.lower(), TokenizerChar())

    expected = [sentence_gleu(list(map(split, references)), split(text)) for text, references in cases]
    assert scores(GLEU(lowercase=True, tokenize="char"), cases) == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize("options", TERS, ids=str)
def test_ter_is_one_minus_the_sentence_ter_of_sacrebleu(options, cases):
    cases = cases[:120]  # it is slow
    library = SacreTER(**options)
    expected = [max(1 - library.sentence_score(*case).score / 100, 0) for case in cases]
    assert scores(TER(**options), cases) == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize("options", METEORS, ids=str)
def test_meteor_is_that_of_nltk_without_synonyms(options, cases):
    expected = [meteor_of_nltk(*case, **options) for case in cases]
    assert scores(METEOR(**options), cases) == pytest.approx(expected, abs=EXACT)


def test_token_f1_is_rouge_1_of_words(cases):
    expected = [f1_of_rouge_score(*case) for case in cases]
    assert scores(TokenF1(normalize="strip"), cases) == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize(("unit", "units"), [("characters", str.strip), ("words", str.split)])
def test_edit_similarity_is_one_minus_the_share_of_edits_of_nltk(unit, units, cases):
    expected = [max(similarity_of_nltk(units(text), units(reference)) for reference in refs) for text, refs in cases]
    assert scores(EditSimilarity(unit=unit), cases) == pytest.approx(expected, abs=EXACT)


@settings(max_examples=100)
@given(text=any_text, references=st.lists(any_text, min_size=1, max_size=3))
def test_any_unicode_text_scores_as_in_the_libraries(text, references):
    case = [(text, references)]
    ter = max(1 - SacreTER().sentence_score(text, references).score / 100, 0)
    assert scores(GLEU(), case) == pytest.approx([gleu_of_nltk(text, references)], abs=EXACT)
    assert scores(METEOR(), case) == pytest.approx([meteor_of_nltk(text, references)], abs=EXACT)
    assert scores(TER(), case) == pytest.approx([ter], abs=EXACT)
    assert scores(TokenF1(normalize="strip"), case) == pytest.approx([f1_of_rouge_score(text, references)], abs=EXACT)
    for metric in METRICS:
        assert 0 <= scores(metric, case)[0] <= 1


@pytest.mark.parametrize("metric", METRICS, ids=repr)
def test_permuting_rows_permutes_rewards(metric, cases):
    cases = cases[:120]
    assert scores(metric, cases[::-1]) == scores(metric, cases)[::-1]


@pytest.mark.parametrize("metric", BEST_OF, ids=repr)
def test_adding_a_reference_never_lowers_the_best(metric, cases):
    more = [(text, [*references, "one more a reference"]) for text, references in cases]
    assert all(after >= before for before, after in zip(scores(metric, cases), scores(metric, more), strict=True))


@pytest.mark.parametrize("metric", METRICS, ids=repr)
def test_a_reward_survives_pickling_with_its_signature(metric):
    scores(metric, [("the cat", ["a cat sat", "cats"])])
    again = pickle.loads(pickle.dumps(metric))
    assert again.signature == metric.signature
    assert scores(again, [("the cat", ["a cat sat", "cats"])]) == scores(metric, [("the cat", ["a cat sat", "cats"])])


@pytest.mark.parametrize(("metric", "both", "one"), [*((m, 0, 0) for m in (GLEU(), METEOR())), (TER(), 1, 0)])
def test_an_empty_text_has_the_score_of_the_library(metric, both, one):
    assert scores(metric, [("", [""]), ("", ["a"]), ("a", [""])]) == [both, one, one]


@pytest.mark.parametrize("metric", [TokenF1(), TokenF1("strip"), EditSimilarity(), EditSimilarity("words")], ids=repr)
def test_an_empty_completion_is_right_where_no_words_are_expected(metric):
    assert scores(metric, [("", [""]), (" \n", ["q", ""]), ("", ["q"]), ("q", [" "])]) == [1, 1, 0, 0]


def test_gleu_counts_a_repeated_word_as_often_as_the_reference():
    """Of 7 + 6 + 5 + 4 n-grams only "the" matches, twice."""
    assert scores(GLEU(), [("the the the the the the the", ["the cat is on the mat"])]) == [2 / 22]


def test_gleu_is_the_lesser_of_precision_and_recall():
    """The completion has 3 n-grams, the reference 6, and 3 are shared: either way round."""
    assert scores(GLEU(), [("a b", ["a b c"]), ("a b c", ["a b"])]) == [0.5, 0.5]


def test_ter_counts_a_run_of_words_that_moved_as_one_edit():
    assert scores(TER(), [("c d e a b", ["a b c d e"])]) == pytest.approx([4 / 5])


def test_ter_takes_the_fewest_edits_over_the_mean_length():
    """One edit to the reference of three words; with the one of one word the mean length is two."""
    assert scores(TER(), [("a b", ["a b c"]), ("a b", ["a b c", "x"])]) == pytest.approx([2 / 3, 1 / 2])


def test_ter_of_more_edits_than_words_is_zero():
    assert scores(TER(), [("a b c d", ["x y"])]) == [0.0]


def test_meteor_of_2005_favours_recall_and_few_chunks():
    """6 of 7 words match all 6 of the reference in 2 chunks: 10 P R / (R + 9 P) and a penalty of (2 / 6)^3 / 2."""
    expected = 10 * 6 / 7 / (1 + 9 * 6 / 7) * (1 - (2 / 6) ** 3 / 2)
    case = ("The cat was sat on the mat", ["the cat sat on the mat"])
    assert scores(METEOR(), [case]) == pytest.approx([expected], abs=EXACT)


def test_meteor_matches_words_of_the_same_stem():
    assert scores(METEOR(), [("he runs", ["He running"])]) == pytest.approx([1 - 0.5 / 2**3])


def test_meteor_matches_synonyms_of_wordnet(tmp_path):
    """
    Looked up are stems, as nltk does: "automobile", which stems to "automobil", is not found.

    The WordNet has one synset, and the process is another one, as nltk keeps the WordNet it loaded.
    """
    corpus = tmp_path / "corpora/wordnet"
    corpus.mkdir(parents=True)
    for name in nltk.corpus.reader.WordNetCorpusReader._FILES:
        (corpus / name).touch()
    (corpus / "lexnames").write_text("00\tnoun.artifact\t1\n")
    (corpus / "data.noun").write_text("00000000 00 n 03 car 0 auto 0 automobile 0 000 | it drives\n")
    nouns = [f"{word} n 1 0 1 0 00000000\n" for word in ("car", "auto", "automobile")]
    (corpus / "index.noun").write_text("".join(nouns))
    code = (
        "import pickle; from lmrl.rewards import METEOR\n"
        "for reward in (METEOR(), pickle.loads(pickle.dumps(METEOR(synonyms=True)))):\n"
        "    print(*reward(completions=['the car', 'the car'], references=['the auto', 'the automobile']))"
    )
    environment = {**os.environ, "NLTK_DATA": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    one_of_two, both = 0.5 * (1 - 0.5), 1 - 0.5 / 2**3
    assert list(map(float, done.stdout.split())) == pytest.approx([one_of_two, one_of_two, both, one_of_two])


def test_synonyms_without_wordnet_are_refused_with_the_command_to_get_it(monkeypatch):
    monkeypatch.setattr(nltk.data, "path", [])
    with pytest.raises(ValueError, match=r"synonyms.*python -m nltk\.downloader wordnet"):
        METEOR(synonyms=True)


@pytest.mark.parametrize(
    ("text", "reference", "score"),
    [
        ("The Eiffel Tower!", "eiffel tower", 1.0),
        ("in Paris, France", "Paris", 2 * (1 / 3) * 1 / (1 / 3 + 1)),
        ("cat cat cat", "cat dog", 2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2)),
        ("the", "a", 1.0),
        ("London", "Paris", 0.0),
    ],
)
def test_token_f1_counts_words_as_squad_does(text, reference, score):
    assert scores(TokenF1(), [(text, ["", reference] if score else [reference])]) == pytest.approx([score])


@pytest.mark.parametrize(
    ("unit", "text", "reference", "score"),
    [
        ("characters", " kitten\n", "sitting", 1 - 3 / 7),
        ("characters", "Paris", "paris", 1 - 1 / 5),
        ("words", "the  cat sat", "the cat sat down", 1 - 1 / 4),
        ("words", "b a", "a b", 0.0),
    ],
)
def test_edit_similarity_is_one_minus_edits_over_the_longer_text(unit, text, reference, score):
    assert scores(EditSimilarity(unit=unit), [(text, ["", reference])]) == pytest.approx([score])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GLEU(tokenize="13b"), "tokenize.*13a.*13b"),
        (lambda: TER(asian_support=True), "asian_support.*normalized.*no_punct"),
        (lambda: METEOR(alpha=1.1), "alpha.*1.1"),
        (lambda: METEOR(beta=-1), "beta.*-1"),
        (lambda: METEOR(gamma=float("nan")), "gamma.*nan"),
        (lambda: TokenF1(normalize="lower"), "normalize.*squad.*lower"),
        (lambda: EditSimilarity(unit="tokens"), "unit.*characters.*words.*tokens"),
    ],
)
def test_a_wrong_option_is_refused_at_construction(make, message):
    with pytest.raises(ValueError, match=message):
        make()
