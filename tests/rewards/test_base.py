"""How every reward is called, what it refuses, and that it travels between processes."""

import doctest
import inspect
import pickle

import pytest

import lmrl.rewards
from lmrl.rewards import (
    BLEU,
    ChrF,
    ExactMatch,
    Gate,
    Length,
    Product,
    Rouge,
    Scaled,
    Weighted,
    call_reward,
    completion_text,
    make_reward,
    on_text,
)
from lmrl.utils import columns_of

REFERENCES = [["the cat sat on the mat", "a cat sat there"], ["no"]]
REWARDS = [
    BLEU(),
    ChrF(word_order=2),
    Rouge("rouge1"),
    Rouge("rougeL", use_stemmer=True),
    Rouge("rougeLsum"),
    ExactMatch(),
    Length(5),
    Weighted({BLEU(): 0.5, Length(5): 0.5}),
]


@pytest.mark.parametrize(
    ("completion", "text"),
    [
        ("", ""),
        ("a b", "a b"),
        ([], ""),
        ([{"role": "assistant", "content": "a b"}], "a b"),
        ([{"role": "assistant", "content": None, "tool_calls": []}], ""),
        (
            [{"role": "assistant", "content": [{"type": "text", "text": "a "}, {"type": "image"}, {"text": "b"}]}],
            "a b",
        ),
        (
            [
                {"role": "assistant", "content": "a"},
                {"role": "tool", "content": "x"},
                {"role": "assistant", "content": "b"},
            ],
            "a\nb",
        ),
        ([{"content": "a"}], "a"),
    ],
)
def test_the_text_of_a_completion_is_in_the_messages_of_the_assistant(completion, text):
    assert completion_text(completion) == text


@pytest.mark.parametrize("completion", [None, 3, [1, 2], {"role": "assistant", "content": "a"}])
def test_a_completion_that_is_no_text_is_refused(completion):
    with pytest.raises(ValueError, match="string or a list of chat messages"):
        completion_text(completion)


def test_a_function_of_texts_gets_those_of_chats_and_all_else_as_it_is():
    @on_text
    def seen(prompts, completions, mr, **_):
        return [prompts, completions, mr]

    prompts = [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi."}], "plain"]
    completions = [[{"role": "assistant", "content": "Hello."}], "text"]
    assert seen(prompts=prompts, completions=completions, mr=["x", "y"]) == [
        ["Be brief.\nHi.", "plain"],
        ["Hello.", "text"],
        ["x", "y"],
    ]
    assert (seen.__name__, columns_of(seen)) == ("seen", ["mr"])


def test_an_async_function_of_texts_stays_async():
    @on_text
    async def lengths(completions, **_):
        return [len(text) for text in completions]

    assert inspect.iscoroutinefunction(lengths)
    assert call_reward(lengths, completions=[[{"role": "assistant", "content": "abc"}]]) == [3.0]


@pytest.mark.parametrize("reward", REWARDS, ids=repr)
def test_chat_completions_score_as_their_text(reward):
    texts = ["the cat sat on a mat", "no"]
    chats = [[{"role": "assistant", "content": [{"type": "text", "text": text}]}] for text in texts]
    assert reward(completions=chats, references=REFERENCES) == reward(completions=texts, references=REFERENCES)


@pytest.mark.parametrize("reward", REWARDS, ids=repr)
def test_a_reward_ignores_what_it_does_not_read(reward):
    plain = reward(completions=["the cat", "no"], references=REFERENCES)
    everything = reward(
        prompts=["p", "p"],
        completions=["the cat", "no"],
        completion_ids=[[1], [2]],
        references=REFERENCES,
        other=[None, None],
        trainer_state=None,
        log_extra=lambda column, values: None,
        log_metric=lambda name, value: None,
    )
    assert everything == plain
    assert all(isinstance(value, float) for value in plain)


@pytest.mark.parametrize("reward", REWARDS, ids=repr)
def test_a_reward_pickles_without_its_cache_and_scores_the_same(reward):
    before = reward(completions=["the cat", "no"], references=REFERENCES)
    assert len(pickle.dumps(reward)) < 2000
    copy = pickle.loads(pickle.dumps(reward))
    assert copy(completions=["the cat", "no"], references=REFERENCES) == before
    assert (copy.__name__, copy.columns, copy.range, copy.signature) == (
        reward.__name__,
        reward.columns,
        reward.range,
        reward.signature,
    )


def test_the_cache_of_references_is_bounded_and_spares_work():
    made = []

    class Spy(ExactMatch):
        def prepare(self, references):
            made.append(references)
            return super().prepare(references)

    reward = Spy(cache_size=2)
    reward(completions=["x"] * 6, references=["a", "a", "b", "b", "c", "a"])
    assert made == [("a",), ("b",), ("c",), ("a",)]


def test_a_missing_column_is_named_with_those_that_are_there():
    with pytest.raises(ValueError, match=r"'bleu'.*'references'.*\['target', 'topic'\].*Add the column"):
        BLEU()(completions=["a"], target=["a"], topic=["b"])


def test_another_column_can_be_read():
    assert ExactMatch(column="target")(completions=["a"], target=["a"]) == [1.0]


def test_a_wrong_number_of_rows_is_refused():
    with pytest.raises(ValueError, match="one row of 'references' per completion, got 1 rows for 2 completions"):
        BLEU()(completions=["a", "b"], references=["a"])


@pytest.mark.parametrize("row", [None, [], 3, ["a", None], [["a"]], {"a": 1}, b"a"])
def test_a_row_without_proper_references_is_named(row):
    with pytest.raises(ValueError, match=r"'rougeL'.*row 1 of the batch"):
        Rouge("rougeL")(completions=["a", "b"], references=["a", row])


def test_one_reference_may_be_a_plain_string():
    reward = BLEU()
    assert reward(completions=["a b"], references=["a b c"]) == reward(completions=["a b"], references=[["a b c"]])


def test_an_empty_batch_has_no_rewards():
    assert [reward(completions=[], references=[]) for reward in REWARDS] == [[]] * len(REWARDS)


@pytest.mark.parametrize(
    ("reward", "name", "signature"),
    [
        (BLEU(), "bleu", "bleu|nrefs:var|case:mixed|eff:yes|tok:13a|smooth:exp|version:"),
        (
            BLEU(smooth_method="floor", lowercase=True, name="b"),
            "b",
            "bleu|nrefs:var|case:lc|eff:yes|tok:13a|smooth:fl",
        ),
        (ChrF(), "chrf", "chrF2|nrefs:var|case:mixed|eff:yes|nc:6|nw:0|space:no|version:"),
        (ChrF(word_order=2), "chrf", "chrF2++|nrefs:var|case:mixed|eff:yes|nc:6|nw:2|space:no|version:"),
        (Rouge("rougeL", use_stemmer=True), "rougeL", "rougeL|nrefs:var|agg:best|stem:porter|as:rouge_score-"),
        (ExactMatch(), "exact_match", "exact_match|nrefs:var|normalize:strip"),
        (Length(9, unit="characters"), "length", "length|target:9|unit:characters"),
    ],
)
def test_a_reward_has_its_name_and_signature(reward, name, signature):
    assert reward.__name__ == name
    assert reward.signature.startswith(signature)


@pytest.mark.parametrize(
    ("unit", "text", "score"),
    [
        ("words", "", 0.0),
        ("words", "  \n", 0.0),
        ("words", "a b", 0.5),
        ("words", "a b\nc d", 1.0),
        ("words", "a b c d e f g h", 0.5),
        ("characters", "a b", 0.75),
    ],
)
def test_length_is_the_smaller_over_the_larger_of_length_and_target(unit, text, score):
    assert Length(4, unit=unit)(completions=[text]) == [score]


@pytest.mark.parametrize(
    ("options", "message"), [({"target": 0}, "target"), ({"target": 3, "unit": "tokens"}, "unit")]
)
def test_length_refuses_what_it_cannot_measure(options, message):
    with pytest.raises(ValueError, match=message):
        Length(**options)


def test_a_reward_without_a_name_is_refused():
    with pytest.raises(ValueError, match="name"):
        BLEU(name="")


class WithoutFences(doctest.DocTestParser):
    """Reads the examples of a docstring in Markdown, where a fence follows the last line shown."""

    def parse(self, string, name="<string>"):
        return super().parse(string.replace("```", ""), name)


@pytest.mark.parametrize("shown", [completion_text, on_text, Weighted, Product, Gate, Scaled, make_reward])
def test_an_example_in_a_docstring_gives_what_it_shows(shown):
    (examples,) = doctest.DocTestFinder(parser=WithoutFences(), recurse=False).find(shown, globs=vars(lmrl.rewards))
    assert examples.examples
    assert doctest.DocTestRunner().run(examples).failed == 0
