"""Rewards made of another: gates, thresholds, bounds and scales."""

import math
import pickle

import pytest

from lmrl.rewards import BLEU, Clipped, ExactMatch, Gate, Length, Scaled, Threshold


def given(values, name="given", range=(-2.0, 4.0)):
    """Returns a reward of a stated range that gives the values."""

    def reward(completions, **columns):
        return values

    reward.__name__, reward.range = name, range
    return reward


VALUES = [-1.5, 0.5, 3.0, None, 0.0]


@pytest.mark.parametrize(
    ("reward", "expected", "range", "name", "signature"),
    [
        (Threshold(given(VALUES), 0.5), [0, 1, 1, None, 0], (0, 1), "given_at_least_0.5", "(given >= 0.5)"),
        (
            *(Clipped(given(VALUES), -1, 1), [-1, 0.5, 1, None, 0], (-1, 1)),
            *("given_clipped", "clipped(given, -1, 1)"),
        ),
        (
            *(Clipped(given(VALUES), high=1), [-1.5, 0.5, 1, None, 0], (-2, 1)),
            *("given_clipped", "clipped(given, -inf, 1)"),
        ),
        (Clipped(given(VALUES), 5, 6), [5, 5, 5, None, 5], (5, 5), "given_clipped", "clipped(given, 5, 6)"),
        (Scaled(given(VALUES), 2, 1), [-2, 2, 7, None, 1], (-3, 9), "given_scaled", "2 * (given) + 1"),
        (Scaled(given(VALUES), -1), [1.5, -0.5, -3, None, 0], (-4, 2), "given_scaled", "-1 * (given) + 0"),
    ],
)
def test_what_becomes_of_each_value_of_the_range_and_of_the_name(reward, expected, range, name, signature):
    assert reward(completions=["a"] * 5) == expected
    assert reward.range == range
    assert reward.__name__ == name
    assert reward.signature == signature


def test_the_reward_before_its_bounds_is_logged():
    logged = {}
    Clipped(given([-3.0, 1.0]), 0, 2)(completions=["a", "b"], log_metric=logged.__setitem__)
    assert logged == {"given_clipped/given": -1.0}


def test_a_reward_counts_where_its_gate_is_open():
    reward = Gate(given([3.0, 3.0, 3.0, None, None, 0.0]), given([0.4, 0.5, None, 0.4, 0.6, 1.0], "gate"))
    assert reward(completions=["a"] * 6) == [0.0, 3.0, None, 0.0, None, 0.0]
    assert reward.__name__ == "given_if_gate"
    assert reward.signature == "(given if gate >= 0.5 else 0)"
    assert reward.range == (-2.0, 4.0)


def test_a_shut_gate_gives_otherwise():
    reward = Gate(Length(2), when=ExactMatch(), at_least=1, otherwise=-1)
    assert reward(completions=["a", "a"], references=["a", "b"]) == [0.5, -1.0]
    assert reward.range == (-1.0, 1.0)
    assert reward.columns == ("references",)


@pytest.mark.parametrize(
    "reward", [Gate(BLEU(), ExactMatch()), Threshold(BLEU(), 0.9), Clipped(BLEU(), 0, 2), Scaled(BLEU(), 1)], ids=repr
)
def test_it_pickles(reward):
    again = pickle.loads(pickle.dumps(reward))
    assert again(completions=["a b c d"], references=["a b c d"]) == pytest.approx([1.0])
    assert again.signature == reward.signature


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Clipped(Length(2), 1, 1), "`low` must be below `high`, got 1 and 1"),
        (lambda: Clipped(Length(2), math.nan), "below"),
        (lambda: Scaled(Length(2), 0), "`scale` must not be 0, got 0"),
        (lambda: Scaled(Length(2), math.inf), "`scale` must be finite, got inf"),
        (lambda: Threshold(Length(2), math.nan), "`at_least` must be finite, got nan"),
        (lambda: Gate(Length(2), when=Length(3)), "distinct names"),
        (lambda: Gate(Length(2), when="format"), "callables"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()
