"""Rewards that look at the completion: length, repetition, format, words, the values of a meaning representation."""

import json
import pickle

import pytest

from lmrl.data import demo_model_path, load_prompts
from lmrl.evaluation import Decoding, evaluate_model
from lmrl.models import load_model, load_tokenizer
from lmrl.rewards import BLEU, DistinctN, Format, Keywords, LengthPenalty, SlotCoverage


@pytest.mark.parametrize(
    ("words", "penalty"), [(0, 0.0), (9, 0.0), (10, 0.0), (11, -0.25), (12, -0.5), (14, -1.0), (15, -1.0), (99, -1.0)]
)
def test_a_completion_too_long_loses_linearly_up_to_one(words, penalty):
    assert LengthPenalty(10, 4)(completions=["ab " * words]) == [penalty]
    assert LengthPenalty(10, 4, unit="characters")(completions=["a" * words]) == [penalty]


def test_no_penalty_is_no_negative_zero():
    assert str(LengthPenalty(10, 4)(completions=["a"])) == "[0.0]"


@pytest.mark.parametrize(
    ("n", "text", "share"),
    [
        (1, "a b a b", 2 / 4),
        (2, "a b a b", 2 / 3),
        (3, "a b a b", 1.0),
        (3, "a a a a a", 1 / 3),
        (2, "a\n a \t a", 1 / 2),
        (1, "A a", 1.0),
        (3, "a a a", 1.0),
        (3, "a a", 1.0),
        (1, "", 1.0),
    ],
)
def test_distinct_n_is_the_share_of_different_ngrams(n, text, share):
    assert DistinctN(n)(completions=[text]) == [share]


@pytest.mark.parametrize(
    ("options", "text", "score"),
    [
        ({}, "12", 1),
        ({}, " 12\n", 1),
        ({}, "a12", 0),
        ({"mode": "start"}, " 12 a", 1),
        ({"mode": "start"}, "a 12", 0),
        ({"mode": "search"}, "a 12 b", 1),
        ({"mode": "search"}, "a", 0),
        ({"mode": "search"}, "\n12", 1),
    ],
)
def test_a_format_is_matched_where_it_should(options, text, score):
    assert Format(r"\d+", **options)(completions=[text]) == [score]


def test_a_format_of_a_sentence_matches_the_completions_of_the_demo():
    """They begin with the space after the prompt: without a capital none of them is rewarded, with one all are."""
    tokenizer = load_tokenizer(demo_model_path())
    rows = load_prompts("demo", split="test", max_rows=8)
    rewards = [BLEU() * Format(r"[A-Z].*", dotall=True), Format(r"[a-z].*", mode="start")]
    model = load_model(demo_model_path())
    evaluation = evaluate_model(model, tokenizer, rows, Decoding(max_new_tokens=48), reward_funcs=rewards)
    assert all(completion.text[0] == " " for completion in evaluation.completions)
    bleu = BLEU()(
        completions=[completion.text for completion in evaluation.completions], references=rows["references"]
    )
    assert evaluation.values["reward/bleu_times_format"] == pytest.approx(sum(bleu) / 8)
    assert sum(bleu) > 2
    assert evaluation.values["reward/format"] == 0


def test_flags_of_a_format():
    assert Format("a.b", ignore_case=True, dotall=True)(completions=["A\nB", "a b"]) == [1, 1]
    assert Format("a.b", ignore_case=True)(completions=["A\nB", "A B"]) == [0, 1]
    assert Format("a.b", dotall=True)(completions=["a\nb", "A B"]) == [1, 0]


def first_letters(word):
    return word[:3]


@pytest.mark.parametrize(
    ("options", "text", "score"),
    [
        ({"required": ["cat", "dog"]}, "The Cat sat.", 1 / 2),
        ({"required": ["cat", "dog"]}, "dog-cat", 1.0),
        ({"required": ["cat"]}, "a category", 0.0),
        ({"required": ["art"]}, "at the party", 0.0),
        ({"required": ["walk"]}, "she walked", 0.0),
        ({"required": ["walk", "ice creams"], "stemmer": "porter"}, "She walked with an Ice cream.", 1.0),
        ({"required": ["art", "walking"], "stemmer": "porter"}, "walks to a party", 1 / 2),
        ({"forbidden": ["dog"], "stemmer": "porter"}, "two dogs", 0.0),
        ({"required": ["Haus"], "stemmer": "german"}, "die Häuser", 1.0),
        ({"required": ["cats"], "stemmer": first_letters}, "a cattle train", 1.0),
        ({"required": ["cat"], "whole_words": False}, "a category", 1.0),
        ({"required": ["Cat"], "ignore_case": False}, "the cat", 0.0),
        ({"required": ["city centre"]}, "in the City\n Centre", 1.0),
        ({"required": ["£20-25", "U.S."]}, "for £20-25, in the U.S.", 1.0),
        ({"required": ["5 out of 5"]}, "rated 15 out of 50", 0.0),
        ({"required": ["a.c"]}, "abc", 0.0),
        ({"required": ["cat"], "forbidden": ["dog"]}, "cat and dog", 0.0),
        ({"required": ["cat"], "forbidden": ["dog"]}, "cat and dogma", 1.0),
        ({"forbidden": ["dog"]}, "", 1.0),
        ({"forbidden": ["dog"]}, "Dog!", 0.0),
    ],
)
def test_keywords_are_the_share_of_those_required_without_a_forbidden_one(options, text, score):
    assert Keywords(**options)(completions=[text]) == [score]


def test_keywords_may_differ_by_row():
    reward = Keywords(column="words")
    assert reward.columns == ("words",)
    assert reward(completions=["a b", "a b", "a b"], words=[["a", "c"], ["b"], []]) == [1 / 2, 1.0, None]
    both = Keywords(required=["a"], forbidden=["x"], column="words")
    assert both(completions=["a b", "a x", "c"], words=[["c"], [], []]) == [1 / 2, 0.0, 0.0]


MR = "name[The Vaults], eatType[pub], priceRange[more than £30], familyFriendly[no], near[Café Adriatic]"
SLOTS = {
    "name": "The Vaults",
    "eatType": "pub",
    "priceRange": "more than £30",
    "familyFriendly": "no",
    "near": "Café Adriatic",
    "food": None,
    "area": "",
}


@pytest.mark.parametrize("mr", [MR, SLOTS, f"inform({MR})"])
@pytest.mark.parametrize(
    ("options", "text", "score"),
    [
        ({}, "The Vaults, a PUB near café adriatic, has no prices of more than £30.", 1.0),
        ({}, "The Vaults is a public house with prices above £30.", 1 / 5),
        ({}, "", 0.0),
        ({"ignore": ["familyFriendly"]}, "The Vaults is a pub.", 2 / 4),
        ({"aliases": {"familyFriendly": {"no": ["adults only", "adult"]}}}, "The Vaults has no adult.", 2 / 5),
        ({"aliases": {"familyFriendly": {"no": ["adults only"]}}}, "The Vaults has no adults.", 1 / 5),
        ({"aliases": {"food": {"no": ["adults only"]}}}, "No Vaults.", 1 / 5),
        ({"ignore": ["near", "priceRange"], "stemmer": "porter"}, "The Vault, two pubs", 2 / 3),
    ],
)
def test_slot_coverage_is_the_share_of_values_that_occur(mr, options, text, score):
    assert SlotCoverage(**options)(completions=[text], mr=[mr]) == [score]


@pytest.mark.parametrize("mr", ["", {}, {"a": None}, "name[]", "familyFriendly[no]"])
def test_a_row_without_a_slot_to_count_has_no_coverage(mr):
    assert SlotCoverage(ignore=["familyFriendly"])(completions=["a"], mr=[mr]) == [None]


def test_a_value_is_covered_whatever_its_type():
    assert SlotCoverage()(completions=["rated 5 of 10"], mr=[{"rating": 5, "score": 1}]) == [1 / 2]


def test_the_values_of_aliases_are_those_of_mappings_whatever_their_type():
    reward = SlotCoverage(aliases={"familyFriendly": {False: ["adult"]}, "rating": {5: ["five"]}})
    assert reward(completions=["adult, rated five"], mr=[{"familyFriendly": False, "rating": 5}]) == [1.0]


@pytest.mark.parametrize(
    "mr", ["a pub", None, 3, [["name", "The Vaults"]], {"food": ["French"]}, {"name": "a", "near": {"b": "c"}}]
)
def test_a_row_that_is_no_meaning_representation_is_named(mr):
    with pytest.raises(ValueError, match=r"'slot_coverage'.*row 1 of the batch"):
        SlotCoverage()(completions=["a", "b"], mr=[MR, mr])


def test_references_cover_their_own_slots_and_not_those_of_others(data_dir):
    lines = (data_dir / "data/e2e/train.jsonl").read_text(encoding="utf-8").splitlines()[:400]
    rows = [json.loads(line) for line in lines]
    reward = SlotCoverage(ignore=["familyFriendly"])

    def mean(references):
        values = reward(completions=[row["references"][0] for row in references], mr=[row["mr"] for row in rows])
        known = [value for value in values if value is not None]
        return sum(known) / len(known)

    own, others = mean(rows), mean(rows[200:] + rows[:200])
    assert own > 0.75
    assert others < 0.2


KEYWORDS = "keywords|required:['as']|forbidden:[]|column:None|whole:yes|case:lc"
REWARDS = [
    (LengthPenalty(9, 3), (-1.0, 0.0), "length_penalty|max:9|slack:3|unit:words"),
    (DistinctN(2), (0.0, 1.0), "distinct_n|n:2|split:whitespace"),
    (Format("a|b", dotall=True), (0.0, 1.0), "format|mode:full|ends:stripped|pattern:re.compile('a|b', re.DOTALL)"),
    (
        Format("a|" * 150 + "b", ignore_case=True),
        (0.0, 1.0),
        f"format|mode:full|ends:stripped|pattern:re.compile('{'a|' * 150}b', re.IGNORECASE)",
    ),
    (
        Keywords(["a"], ["b"], "c"),
        (0.0, 1.0),
        "keywords|required:['a']|forbidden:['b']|column:c|whole:yes|case:lc",
    ),
    (Keywords(["as"], stemmer="porter"), (0.0, 1.0), f"{KEYWORDS}|stem:porter"),
    (Keywords(["as"], stemmer=first_letters), (0.0, 1.0), f"{KEYWORDS}|stem:first_letters"),
    (
        SlotCoverage(ignore=["x"], aliases={"s": {"v": ["p"]}}),
        (0.0, 1.0),
        "slot_coverage|column:mr|ignore:['x']|aliases:{'s[v]': ['p']}",
    ),
]


@pytest.mark.parametrize(("reward", "ends", "signature"), REWARDS)
def test_it_has_its_range_and_signature_and_travels(reward, ends, signature):
    assert (reward.range, reward.signature) == (ends, signature)
    copy = pickle.loads(pickle.dumps(reward))
    chat = [{"role": "assistant", "content": "a"}]
    assert copy(completions=[chat], mr=[MR], c=[["z"]]) == reward(completions=["a"], mr=[MR], c=[["z"]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LengthPenalty(-1, 4), "`max_length`.*got -1"),
        (lambda: LengthPenalty(4, 0), "`slack`.*got 0"),
        (lambda: LengthPenalty(4, 4, unit="tokens"), "`unit`.*'tokens'"),
        (lambda: DistinctN(0), "`n`.*got 0"),
        (lambda: Format("(a"), r"must be a regular expression, got '\(a'"),
        (lambda: Format("a", mode="end"), "`mode`.*'end'"),
        (lambda: Keywords(), "words to look for"),
        (lambda: Keywords("cat"), "`required` must be a list.*'cat'"),
        (lambda: Keywords(["cat"], forbidden=[" "]), "`forbidden` must be a list"),
        (lambda: Keywords(column="words")(completions=["a", "b"], words=[["a"], "b"]), "Row 1 of 'words' must be"),
        (lambda: Keywords(["a"], stemmer="Porter"), "`stemmer` must be one of .*Did you mean `porter`"),
        (lambda: Keywords(["a"], stemmer="porter", whole_words=False), "must be True with `stemmer`, got False"),
        (lambda: SlotCoverage(stemmer="latin"), "`stemmer` must be one of .*got 'latin'"),
        (lambda: SlotCoverage(ignore="name"), "`ignore` must be a list"),
        (lambda: SlotCoverage(aliases={"a": {"b": "c"}}), r"`aliases` of a\[b\] must be a list"),
    ],
)
def test_what_cannot_be_measured_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
