"""Rewards added and multiplied as they are written."""

import math
import pickle

import pytest

from lmrl.rewards import BLEU, ExactMatch, Length, Product, Scaled, Weighted

TEXTS = {"completions": ["a b", "a"], "references": ["a b", "b"]}  # ExactMatch: 1 and 0; Length(4): 0.5 and 0.25
MATCH, LENGTH = ExactMatch(), Length(4)


def ones(completions, **columns):
    return [1.0 for _ in completions]


@pytest.mark.parametrize(
    ("reward", "kind", "expected", "name", "signature"),
    [
        (MATCH + LENGTH, Weighted, [1.5, 0.25], "exact_match_plus_length", "1 * (M) + 1 * (L)"),
        (MATCH - LENGTH, Weighted, [0.5, -0.25], "exact_match_minus_length", "1 * (M) + -1 * (L)"),
        (0.5 * MATCH + LENGTH * 2, Weighted, [1.5, 0.5], "exact_match_plus_length", "0.5 * (M) + 2 * (L)"),
        (MATCH + ones, Weighted, [2.0, 1.0], "exact_match_plus_ones", "1 * (M) + 1 * (ones)"),
        (ones - MATCH, Weighted, [0.0, 1.0], "ones_minus_exact_match", "1 * (ones) + -1 * (M)"),
        (-MATCH, Weighted, [-1.0, 0.0], "minus_exact_match", "-1 * (M)"),
        (MATCH / 2, Weighted, [0.5, 0.0], "weighted_exact_match", "0.5 * (M)"),
        (sum([MATCH, LENGTH]), Weighted, [1.5, 0.25], "exact_match_plus_length", "1 * (M) + 1 * (L)"),
        (MATCH * LENGTH, Product, [0.5, 0.0], "exact_match_times_length", "(M) * (L)"),
        (ones * MATCH, Product, [1.0, 0.0], "ones_times_exact_match", "(ones) * (M)"),
        (MATCH * LENGTH * ones, Product, [0.5, 0.0], "exact_match_times_length_times_ones", "(M) * (L) * (ones)"),
        (LENGTH + 1, Scaled, [1.5, 1.25], "length_scaled", "1 * (L) + 1"),
        (LENGTH - 1, Scaled, [-0.5, -0.75], "length_scaled", "1 * (L) + -1"),
        (1 - LENGTH, Scaled, [0.5, 0.75], "length_scaled", "-1 * (L) + 1"),
    ],
)
def test_each_operator_makes_its_combination(reward, kind, expected, name, signature):
    assert type(reward) is kind
    assert reward(**TEXTS) == expected
    assert reward.__name__ == name
    assert reward.signature == signature.replace("M", MATCH.signature).replace("(L)", f"({LENGTH.signature})")
    assert pickle.loads(pickle.dumps(reward))(**TEXTS) == expected


def test_a_long_sum_is_one_sum():
    reward = 2 * (MATCH + 0.5 * LENGTH) - ones
    assert reward.components == (MATCH, LENGTH, ones)
    assert reward.weights == (2.0, 1.0, -1.0)


def test_the_mean_of_rewards_is_one_sum():
    assert ((MATCH + LENGTH) / 2).weights == (0.5, 0.5)


def test_a_sum_or_product_with_a_name_is_not_merged():
    named, factor = Weighted({MATCH: 1.0}, name="named"), Product([MATCH, LENGTH], name="factor")
    assert (named + LENGTH).components == (named, LENGTH)
    assert (factor * ones).components == (factor, ones)


def test_a_sum_is_a_factor_and_a_product_a_term():
    assert ((MATCH + LENGTH) * ones)(**TEXTS) == [1.5, 0.25]
    assert (MATCH * LENGTH + ones)(**TEXTS) == [1.5, 1.0]


def test_zero_is_nothing_to_add():
    assert 0 + MATCH is MATCH


@pytest.mark.parametrize("wrong", [lambda: MATCH + "bleu", lambda: "bleu" * MATCH, lambda: None - MATCH])
def test_an_operand_that_is_no_reward_is_refused(wrong):
    with pytest.raises(TypeError, match="must be a reward, a function or a number, got"):
        wrong()


def test_a_reward_is_divided_by_numbers_only():
    with pytest.raises(TypeError, match="divided by a number"):
        MATCH / LENGTH


def test_numbers_must_be_finite():
    with pytest.raises(ValueError, match="finite"):
        math.nan * MATCH
    with pytest.raises(ValueError, match="finite"):
        MATCH + math.inf


def test_the_same_name_twice_is_refused():
    with pytest.raises(ValueError, match=r"distinct names.*'bleu', 'bleu'"):
        BLEU() + BLEU(lowercase=True)
