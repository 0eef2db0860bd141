"""What k of n samples are worth, against the mean over all subsets."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest

from lmrl.comparison import best_of, best_of_samples, most_typical, pass_at, reference_column, similarities
from lmrl.comparison.samples import sizes
from lmrl.evaluation import Score, bootstrap_interval
from lmrl.evaluation.scores import mean_score, per_prompt
from lmrl.rewards import Length, Rouge, TokenF1, make_reward

VALUES = np.array([[3.0, 1.0, 2.0, 2.0, 5.0], [-1.0, 0.0, -4.0, 0.5, 0.25]])


def over_subsets(value: Callable[[list[int]], float], n: int, k: int) -> float:
    """Returns the mean of a function over all subsets of k of n places."""
    subsets = [list(subset) for subset in itertools.combinations(range(n), k)]
    return sum(map(value, subsets)) / len(subsets)


def sampled(rows: list[list[float]], higher_is_better: bool = True) -> Score:
    values = [value for row in rows for value in row]
    return per_prompt(mean_score("reward/r", "r", values, higher_is_better), len(rows[0]))


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_the_best_of_k_is_the_mean_of_the_maxima_of_all_subsets(k: int) -> None:
    expected = [over_subsets(lambda places, row=row: max(row[places]), 5, k) for row in VALUES]
    assert best_of(VALUES, k) == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_pass_at_k_is_the_share_of_subsets_with_one_that_passes(k: int) -> None:
    passed = VALUES > 1.5
    expected = [over_subsets(lambda places, row=row: float(row[places].any()), 5, k) for row in passed]
    assert pass_at(passed, k) == pytest.approx(expected)
    by_chen = [1 - math.comb(5 - int(c), k) / math.comb(5, k) for c in passed.sum(axis=1)]
    assert pass_at(passed, k) == pytest.approx(by_chen)


def test_the_estimate_from_n_samples_is_unbiased_for_k_new_ones() -> None:
    """Over all draws of 3 samples from a distribution, its mean is the expected maximum of 2 draws."""
    support, weights = [0.0, 1.0, 4.0], [0.5, 0.3, 0.2]
    exact = sum(
        weights[i] * weights[j] * max(support[i], support[j]) for i, j in itertools.product(range(3), repeat=2)
    )
    mean = sum(
        math.prod(weights[i] for i in drawn) * best_of([[support[i] for i in drawn]], 2)[0]
        for drawn in itertools.product(range(3), repeat=3)
    )
    assert mean == pytest.approx(exact)


def test_sizes_are_powers_of_two_and_n() -> None:
    assert (sizes(1), sizes(6), sizes(16)) == ([1], [1, 2, 4, 6], [1, 2, 4, 8, 16])
    for k in (0, 6):
        with pytest.raises(ValueError, match=f"got {k}"):
            best_of(VALUES, k)


def test_the_table_of_a_score_has_means_and_intervals_over_prompts() -> None:
    score = sampled([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0], [math.nan, 1.0, 0.0]])
    one, two, three = best_of_samples(score)
    assert [(found.k, found.prompts) for found in (one, two, three)] == [(1, 2), (2, 2), (3, 2)]
    assert one.best == one.worst == one.passed == bootstrap_interval([2 / 3, 0.0])
    assert two.best.value == pytest.approx(1 / 2) and two.worst.value == pytest.approx((1 / 3) / 2)
    assert three.best == bootstrap_interval([1.0, 0.0]) and three.worst.value == 0.0 and three.typical is None


def test_of_a_score_of_which_less_is_better_the_best_is_the_least() -> None:
    rows = best_of_samples(sampled([[30.0, 10.0], [50.0, 60.0]], higher_is_better=False))
    assert [(row.best.value, row.worst.value, row.passed) for row in rows] == [(37.5, 37.5, None), (30.0, 45.0, None)]


def test_a_threshold_makes_any_reward_pass_or_fail() -> None:
    rows = best_of_samples(sampled([[0.2, 0.7], [0.4, 0.4]]), threshold=0.7)
    assert [row.passed.value for row in rows if row.passed] == [0.25, 0.5]


def test_a_reward_at_the_threshold_passes_whatever_its_rounding() -> None:
    """0.7 + 0.2 is 0.8999999999999999, and 0.9 in float32 is 0.8999999761581421."""
    values = [0.7 + 0.2, 0.8999999761581421, 0.8999, 0.0]
    found = best_of_samples(per_prompt(mean_score("r", "", values, True), 4), threshold=0.9)
    assert found[0].passed is not None and found[0].passed.value == 2 / 4


def test_one_text_per_prompt_has_no_table() -> None:
    assert best_of_samples(mean_score("reward/r", "r", [1.0, 2.0], True)) == []


def test_similarities_are_those_of_every_pair() -> None:
    texts = [["a b c", "a b", "a b c"], ["x", "", "x y"]]
    matrices = similarities(texts, TokenF1())
    for samples, matrix in zip(texts, matrices, strict=True):
        for (i, one), (j, other) in itertools.product(enumerate(samples), repeat=2):
            assert matrix[i, j] == TokenF1()(completions=[one], references=[[other]])[0]
        assert (matrix == matrix.T).all()


def test_the_choice_is_the_sample_most_similar_to_the_others() -> None:
    """The first of equals; the similarity of a sample to itself does not count."""
    similar = np.array([[1.0, 0.2, 0.3], [0.2, 9.0, 0.8], [0.3, 0.8, 1.0]])
    assert most_typical(similar, 3) == [2]  # 0.25, 0.5 and 0.55
    assert most_typical(similar, 2) == [0] and most_typical(similar, 1) == [0, 1, 2]
    unknown = np.array([[math.nan] * 3, [math.nan, 1.0, 0.1], [math.nan, 0.1, 1.0]])
    assert most_typical(unknown, 3) == [1]


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_value_of_the_choice_is_unbiased(k: int) -> None:
    """Over all orders of the samples its mean is the mean over all ordered groups of k."""
    texts = ["a b c d", "a b c", "a b", "c"]
    values = np.array([0.1, 0.9, 0.4, 0.2])
    (similar,) = similarities([texts], Rouge("rougeL"))

    def chosen(places: tuple[int, ...]) -> float:
        order = list(places)
        group = similar[np.ix_(order, order)]
        return float(values[order][most_typical(group, k)].mean())

    over_orders = np.mean([chosen(order) for order in itertools.permutations(range(4))])
    over_groups = np.mean([chosen(group) for group in itertools.permutations(range(4), k)])
    assert over_orders == pytest.approx(over_groups)


def test_the_chosen_sample_is_scored_by_the_reward() -> None:
    texts = [["a b c", "a b", "z"], ["q", "r s", "r s t"]]
    rows = best_of_samples(
        sampled([[0.5, 0.25, 1.0], [1.0, 0.75, 0.0]]), similar=similarities(texts, make_reward("rougeL"))
    )
    assert [found.typical.value for found in rows if found.typical][-1] == (0.5 + 0.75) / 2
    assert rows[0].typical.value == pytest.approx(rows[0].best.value)  # one alone is its own choice


def test_a_similarity_must_read_references_alone() -> None:
    assert reference_column(TokenF1()) == "references"
    with pytest.raises(ValueError, match=r"`eval_mbr_metric` must compare a completion with references .* reads none"):
        reference_column(Length(20))

    def reads_two(completions: list[str], references: list[list[str]], tone: list[str]) -> list[float]:
        return [0.0 for _ in completions]

    with pytest.raises(ValueError, match="got 'reads_two', which reads references, tone"):
        reference_column(reads_two)
