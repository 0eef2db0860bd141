"""Win rates and the sign test, against counts by hand, closed forms and scipy's values."""

import itertools
import math
from fractions import Fraction

import pytest

from lmrl.comparison import sign_test, win_rate
from lmrl.evaluation import Score, bootstrap_interval
from lmrl.evaluation.scores import mean_score, per_prompt


def score(values: list[float | None], higher_is_better: bool | None = True, samples: int = 1) -> Score:
    return per_prompt(mean_score("reward/r", "r", values, higher_is_better), samples)


# Literals of `scipy.stats.binomtest(wins, wins + losses).pvalue`, SciPy 1.17.
@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (6, 5, 1.0),
        (9, 1, 0.021484375),
        (1, 9, 0.021484375),
        (0, 20, 1.9073486328125e-06),
        (60, 40, 0.05688793364098089),
        (530, 470, 0.06202319509836343),
    ],
)
def test_the_sign_test_is_the_exact_binomial_one(wins: int, losses: int, p: float) -> None:
    assert sign_test(wins, losses) == pytest.approx(p, rel=1e-12)


def test_the_sign_test_counts_all_sequences_that_are_as_uneven() -> None:
    for wins, losses in ((4, 2), (3, 3), (7, 1)):
        sequences = list(itertools.product((1, -1), repeat=wins + losses))
        uneven = sum(abs(sum(signs)) >= abs(wins - losses) for signs in sequences)
        assert sign_test(wins, losses) == float(Fraction(uneven, len(sequences)))


def test_of_one_text_each_wins_and_half_the_ties_are_counted() -> None:
    found = win_rate(score([0.1, 0.5, 0.5, 0.9, None, 0.2]), score([0.2, 0.5, 0.4, 1.0, 0.3, 0.9]))
    assert (found.wins, found.losses, found.ties, found.prompts) == (3, 1, 1, 5)
    assert found.rate == bootstrap_interval([1.0, 0.5, 0.0, 1.0, 1.0])
    assert found.rate.value == (3 + 1 / 2) / 5
    assert found.p_value == found.p_corrected == sign_test(3, 1) == 0.625 and not found.significant


def test_of_a_score_of_which_less_is_better_less_wins() -> None:
    found = win_rate(score([10.0, 20.0, 30.0], False), score([9.0, 19.0, 31.0], False))
    assert (found.wins, found.losses, found.ties) == (2, 1, 0)


def test_scores_that_differ_by_the_tolerance_tie() -> None:
    found = win_rate(score([1.0, 1.0, 1.0]), score([1.25, 1.5, 0.75]), tolerance=0.25)
    assert (found.wins, found.losses, found.ties) == (1, 0, 2)


def test_scores_that_differ_by_the_rounding_of_float32_tie() -> None:
    """Of equal texts a model gives other last digits in another batch: they are neither won nor lost."""
    found = win_rate(score([57.0, 57.0, -0.3, math.inf]), score([57.00001, 56.99999, -0.3000001, math.inf]))
    assert (found.wins, found.losses, found.ties) == (0, 0, 4)
    found = win_rate(score([57.0, 1e-9, 1.0, math.inf]), score([57.001, 2e-9, math.inf, 1.0]))
    assert (found.wins, found.losses, found.ties) == (3, 1, 0)


def test_the_tolerance_is_not_missed_by_rounding() -> None:
    """0.7 + 0.1 is 0.7999999999999999."""
    found = win_rate(score([0.7, 0.8, 0.2, 0.7]), score([0.8, 0.7, 0.3, 0.9]), tolerance=0.1)
    assert (found.wins, found.losses, found.ties) == (1, 0, 3)


def test_a_rate_on_the_other_side_than_the_sign_test_has_no_star() -> None:
    """Of 16 prompts 9 of 16 pairs are won, of 4 prompts none: more wins, and a rate below a half."""
    before = score([0.0, 1.0, 2.0, 3.0] * 16 + [9.0] * 16, samples=4)
    after = score([0.5, 2.5, 3.5, 0.2] * 16 + [0.0] * 16, samples=4)
    found = win_rate(before, after)
    assert (found.wins, found.losses, found.rate.value) == (16, 4, 0.45)
    assert found.p_corrected < 0.05 and not found.significant


def test_a_rate_of_one_half_has_no_star_whichever_side_has_more_prompts() -> None:
    """12 prompts with 1 of 4 pairs won and 2 lost, and 3 with all won: the sign test alone separates the systems."""
    before = score([0.0, 1.0] * 12 + [0.0] * 6, samples=2)
    after = score([0.0, 0.5] * 12 + [1.0] * 6, samples=2)
    for found, counts in ((win_rate(before, after), (3, 12)), (win_rate(after, before), (12, 3))):
        assert (found.wins, found.losses) == counts and found.rate.value == 0.5
        assert found.p_corrected < 0.05 and not found.significant


def test_of_several_samples_each_pair_counts() -> None:
    """Of the first prompt 3 of 6 pairs are won and 1 is tied, of the second none is decided."""
    before = score([0.1, 0.5, 0.6, 0.2, 0.2, 0.2], samples=3)
    after = score([0.5, 0.3, 0.2, 0.2], samples=2)
    found = win_rate(before, after)
    assert (found.wins, found.losses, found.ties) == (0, 1, 1)
    pairs = [(old, new) for old in (0.1, 0.5, 0.6) for new in (0.5, 0.3)]
    share = sum((new > old) + (new == old) / 2 for old, new in pairs) / 6
    assert found.rate.value == pytest.approx((share + 0.5) / 2)
    alone = win_rate(score([0.3]), score([0.5, 0.1, 0.4], samples=3))
    assert (alone.wins, alone.rate.value) == (1, pytest.approx(2 / 3))


def test_equal_systems_tie_everywhere() -> None:
    same = score([0.3, 0.1, 0.7])
    found = win_rate(same, same)
    assert (found.wins, found.losses, found.ties, found.p_value) == (0, 0, 3, 1.0)
    assert (found.rate.value, found.rate.low, found.rate.high) == (0.5, 0.5, 0.5) and not found.significant


def test_without_a_common_prompt_nothing_is_known() -> None:
    found = win_rate(score([None, 1.0]), score([1.0, None]))
    assert found.prompts == 0 and math.isnan(found.rate.value) and math.isnan(found.p_value)


def test_swapped_systems_have_the_rest() -> None:
    one, other = score([0.1, 0.5, 0.3, 0.9]), score([0.2, 0.4, 0.3, 1.0])
    there, back = win_rate(one, other), win_rate(other, one)
    assert there.rate.value == 1 - back.rate.value and there.p_value == back.p_value
    assert (there.wins, there.losses) == (back.losses, back.wins)


def test_scores_that_cannot_be_compared_raise() -> None:
    with pytest.raises(ValueError, match="must have a value of each text to be compared by"):
        win_rate(Score("distinct1", 0.5, "", None, True), score([1.0]))
    with pytest.raises(ValueError, match="of which more or less is better"):
        win_rate(score([1.0], None), score([1.0], None))
    with pytest.raises(ValueError, match="must have the same rows, got 1 and 2 of 'reward/r'"):
        win_rate(score([1.0]), score([1.0, 2.0]))


def test_a_negative_tolerance_raises() -> None:
    """With it a pair would be won and lost at once."""
    with pytest.raises(ValueError, match=r"^`tolerance` must be at least 0, got -0\.1\.$"):
        win_rate(score([1.0]), score([1.0]), tolerance=-0.1)
