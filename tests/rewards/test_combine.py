"""Rewards made of several others: sums, products, minima."""

import math
import pickle

import pytest

from lmrl.rewards import BLEU, ExactMatch, Length, Minimum, Product, Rouge, Weighted


def ones(completions, **columns):
    return [1.0 for _ in completions]


def bounded(name, low, high, values=()):
    """Returns a reward of a stated range that gives the values."""

    def reward(completions, **columns):
        return list(values)

    reward.__name__, reward.range = name, (low, high)
    return reward


async def later(completions, **columns):
    return [0.5 for _ in completions]


def only_long(completions, **columns):
    return [None if len(text) < 3 else 0.0 for text in completions]


def messages_read(completions, **columns):
    return [float(len(completion[0]["content"])) for completion in completions]


def test_the_sum_is_weighted():
    reward = Weighted([(ExactMatch(), 2.0), (Length(4), -1.0)])
    assert reward(completions=["a b", "x"], references=["a b", "y"]) == [2 * 1 - 0.5, 2 * 0 - 0.25]


def test_a_component_that_is_none_is_left_out():
    assert Weighted({only_long: 1.0, ones: 0.5})(completions=["a", "abc"]) == [0.5, 0.5]


def test_a_row_without_any_value_is_none():
    """A reward of 0 is a value."""
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


def test_the_mean_of_each_component_is_logged_before_and_after_weighting():
    logged = {}
    reward = Weighted({only_long: 9.0, ones: -2.0, Length(2): 4.0}, name="sum")
    reward(completions=["a", "bcd e"], log_metric=logged.__setitem__)
    assert logged == {
        **{"sum/only_long": 0.0, "sum/ones": 1.0, "sum/length": 0.75},
        **{"sum/only_long_weighted": 0.0, "sum/ones_weighted": -2.0, "sum/length_weighted": 3.0},
    }


def test_a_component_that_never_applies_is_not_logged():
    logged = {}
    Weighted({only_long: 1.0, ones: 1.0}, name="sum")(completions=["a"], log_metric=logged.__setitem__)
    assert logged == {"sum/ones": 1.0, "sum/ones_weighted": 1.0}


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
    ("rewards", "message"),
    [
        ([], "at least one"),
        ([(ones, math.nan)], "finite"),
        ([("bleu", 1.0)], "callables"),
        ([(Length(3), 1.0), (Length(4), 1.0)], "distinct names.*length"),
    ],
)
def test_what_cannot_be_summed_is_refused(rewards, message):
    with pytest.raises(ValueError, match=message):
        Weighted(rewards)


def test_a_component_that_loses_rows_is_named():
    def short(completions, **columns):
        return [1.0]

    with pytest.raises(ValueError, match=r"'short' must return .* got \[1.0\] for a batch of 2"):
        Weighted({short: 1.0})(completions=["a", "b"])


def test_an_async_component_is_waited_for():
    assert Weighted({later: 2.0, ones: 1.0})(completions=["a", "b"]) == [2.0, 2.0]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("kind", [Product, Minimum])
def test_a_component_that_is_no_number_is_named_and_not_hidden(kind, value):
    with pytest.raises(ValueError, match=r"'broken' must be finite or None, got (nan|inf) for row 1"):
        kind([bounded("broken", 0, 1, [0.5, value]), ones])(completions=["a", "b"])


FIRST, SECOND = [0.5, -2.0, None, 0.0], [0.25, 3.0, 1.0, None]


@pytest.mark.parametrize(
    ("kind", "expected"), [(Product, [0.125, -6.0, None, None]), (Minimum, [0.25, -2.0, None, None])]
)
def test_products_and_minima_need_all_their_components(kind, expected):
    reward = kind([bounded("first", -2, 1, FIRST), bounded("second", 0, 3, SECOND)])
    assert reward(completions=["a"] * 4) == expected


def test_the_components_of_a_product_are_logged():
    logged = {}
    reward = Product([bounded("first", -2, 1, FIRST), bounded("second", 0, 3, SECOND)], name="both")
    reward(completions=["a"] * 4, log_metric=logged.__setitem__)
    assert logged == {"both/first": -0.5, "both/second": 4.25 / 3}


@pytest.mark.parametrize(
    ("one", "other", "product", "minimum"),
    [
        ((0, 1), (0, 1), (0, 1), (0, 1)),
        ((-2, 1), (-1, 3), (-6, 3), (-2, 1)),
        ((-2, -1), (-4, -3), (3, 8), (-4, -3)),
        ((0, 1), (-math.inf, math.inf), (-math.inf, math.inf), (-math.inf, 1)),
        ((0, 0), (-math.inf, math.inf), (0, 0), (-math.inf, 0)),
        ((1, 2), (0, math.inf), (0, math.inf), (0, 2)),
    ],
)
def test_the_range_of_a_product_and_of_a_minimum(one, other, product, minimum):
    parts = [bounded("one", *one), bounded("other", *other)]
    assert Product(parts).range == product
    assert Minimum(parts).range == minimum


@pytest.mark.parametrize(
    ("reward", "name", "signature"),
    [
        (
            Product([ExactMatch(), Length(3)]),
            "exact_match_times_length",
            "(exact_match|nrefs:var|normalize:strip) * (length|target:3|unit:words)",
        ),
        (Minimum([ones, Length(3)]), "minimum_of_ones_and_length", "minimum(ones, length|target:3|unit:words)"),
        (Weighted({ones: 0.1234567}), "weighted_ones", "0.1234567 * (ones)"),
        (
            Weighted({ones: -1.0, Length(3): 2.0}),
            "minus_ones_plus_length",
            "-1 * (ones) + 2 * (length|target:3|unit:words)",
        ),
        (Product([ones], name="p"), "p", "(ones)"),
    ],
)
def test_a_combination_has_its_name_and_signature(reward, name, signature):
    assert reward.__name__ == name
    assert reward.signature == signature


@pytest.mark.parametrize("kind", [Product, Minimum])
def test_a_combination_pickles_and_reads_the_columns_of_all(kind):
    reward = pickle.loads(pickle.dumps(kind([ExactMatch(), BLEU(column="other"), Length(2)])))
    assert reward.columns == ("references", "other")
    assert reward(completions=["a b"], references=["a b"], other=["a b"]) == [1.0]


@pytest.mark.parametrize("kind", [Product, Minimum])
@pytest.mark.parametrize(
    ("rewards", "message"), [([], "at least one"), (["bleu"], "callables"), ([Length(1), Length(2)], "distinct names")]
)
def test_what_cannot_be_combined_is_refused(kind, rewards, message):
    with pytest.raises(ValueError, match=message):
        kind(rewards)
