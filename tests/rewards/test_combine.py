"""Rewards made of rewards."""

import math

import pytest

from lmrl.rewards import BLEU, ExactMatch, Length, Rouge, Weighted


def ones(completions, **columns):
    return [1.0 for _ in completions]


def only_long(completions, **columns):
    return [None if len(text) < 3 else 0.0 for text in completions]


def messages_read(completions, **columns):
    return [float(len(completion[0]["content"])) for completion in completions]


def test_the_sum_is_weighted():
    reward = Weighted([(ExactMatch(), 2.0), (Length(4), -1.0)])
    assert reward(completions=["a b", "x"], references=["a b", "y"]) == [2 * 1 - 0.5, 2 * 0 - 0.25]


def test_a_component_without_an_answer_is_left_out():
    assert Weighted({only_long: 1.0, ones: 0.5})(completions=["a", "abc"]) == [0.5, 0.5]


def test_a_row_without_any_answer_has_none():
    """A reward of 0 is an answer."""
    assert Weighted({only_long: 1.0})(completions=["a", "abc"]) == [None, 0.0]


def test_it_reads_the_columns_of_all_components():
    reward = Weighted([(BLEU(), 1.0), (Rouge("rougeL"), 1.0), (ExactMatch(column="target"), 1.0), (ones, 1.0)])
    assert reward.columns == ("references", "target")


def test_a_column_missing_for_a_component_is_named():
    with pytest.raises(ValueError, match=r"'exact_match'.*'target'"):
        Weighted({BLEU(): 1.0, ExactMatch(column="target"): 1.0})(completions=["a"], references=["a"])


def test_components_can_be_seen_before_weighting():
    match, length = ExactMatch(), Length(2)
    reward = Weighted({match: 3.0, length: 0.5})
    assert reward.components == (match, length)
    assert reward.weights == (3.0, 0.5)
    assert reward.raw(completions=["a", "b c"], references=["a", "b"]) == {"exact_match": [1, 0], "length": [0.5, 1]}


def test_the_mean_of_each_component_is_logged_before_weighting():
    logged = {}
    reward = Weighted({only_long: 9.0, ones: 9.0, Length(2): 9.0}, name="sum")
    reward(completions=["a", "b c"], log_metric=logged.__setitem__)
    assert logged == {"sum/only_long": 0.0, "sum/ones": 1.0, "sum/length": 0.75}


def test_a_component_gets_the_messages_of_a_chat():
    assert Weighted({messages_read: 1.0})(completions=[[{"role": "assistant", "content": "four"}]]) == [4.0]


def test_its_range_is_the_sum_of_the_ranges():
    assert Weighted([(BLEU(), 0.5), (Length(3), -2.0)]).range == (-2.0, 0.5)
    assert Weighted([(BLEU(), 0.5), (ones, 1.0)]).range == (-math.inf, math.inf)


def test_its_signature_names_the_parts():
    signature = Weighted([(ExactMatch(), 1.0), (Length(3), 0.5), (ones, 2.0)]).signature
    assert signature == "1 * (exact_match|nrefs:var|normalize:strip) + 0.5 * (length|target:3|unit:words) + 2 * (ones)"


def test_sums_can_be_parts_of_sums():
    inner = Weighted({ones: 2.0}, name="inner")
    assert Weighted({inner: 3.0, Length(1): 1.0})(completions=["a"]) == [7.0]


@pytest.mark.parametrize(
    ("rewards", "told"),
    [
        ([], "at least one"),
        ([(ones, math.nan)], "finite"),
        ([("bleu", 1.0)], "callables"),
        ([(Length(3), 1.0), (Length(4), 1.0)], "distinct names.*length"),
    ],
)
def test_what_cannot_be_summed_is_refused(rewards, told):
    with pytest.raises(ValueError, match=told):
        Weighted(rewards)


def test_a_component_that_loses_rows_is_named():
    def short(completions, **columns):
        return [1.0]

    with pytest.raises(ValueError, match="'short' returned 1 values for 2"):
        Weighted({short: 1.0})(completions=["a", "b"])
