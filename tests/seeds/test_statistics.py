"""Intervals and tests over seeds: against scipy's values, analysis of variance, and simulation with a known truth."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from lmrl.evaluation import Score
from lmrl.evaluation.scores import mean_score, pooled_score
from lmrl.seeds import compare_seeds, spread, welch_p
from lmrl.seeds.report import comparison_lines
from lmrl.seeds.statistics import SeedDifference, t_quantile, t_tails


def scores(runs: np.ndarray, name: str = "x") -> list[Score]:
    """Returns the score of each run from the values (runs, rows) of its rows."""
    return [mean_score(name, "signature", values, True) for values in runs.tolist()]


def simulated(rng: np.random.Generator, seeds: int, rows: int, of_seed: float, of_row: float, effect: float) -> list:
    """Returns two configurations (seeds, rows) whose seeds, rows, rows by configuration and texts all vary."""
    common = rng.normal(0, 1, rows)
    return [
        place * effect
        + common
        + rng.normal(0, of_row, rows)
        + rng.normal(0, of_seed, (seeds, 1))
        + rng.normal(0, 0.5, (seeds, rows))
        for place in (0, 1)
    ]


# -- Student's t: scipy 1.17.1, stats.t.ppf(0.975, df) and 2 * stats.t.sf(t, df) --------------------------------------


@pytest.mark.parametrize(
    ("freedom", "quantile", "tails_of_two_and_a_half", "tails_of_a_tenth"),
    [
        (1, 12.706204736174694, 0.24223788318168682, 0.936548965138893),
        (2, 4.302652729749462, 0.12961172022151082, 0.9294654384141402),
        (7.3, 2.345066736547703, 0.03965023466560043, 0.9230354971398295),
        (29, 2.045229642132703, 0.018325344338426086, 0.9210324444873739),
        (1e5, 1.9599877075346095, 0.012420919192559051, 0.9203445259067263),
    ],
)
def test_students_t_is_that_of_scipy(
    freedom: float, quantile: float, tails_of_two_and_a_half: float, tails_of_a_tenth: float
) -> None:
    assert t_quantile(freedom) == pytest.approx(quantile, rel=1e-10)
    assert t_tails(2.5, freedom) == pytest.approx(tails_of_two_and_a_half, rel=1e-9)
    assert t_tails(-0.1, freedom) == pytest.approx(tails_of_a_tenth, rel=1e-9)


def test_tails_are_exact_far_out_and_at_the_middle() -> None:
    assert t_tails(60, 12) == pytest.approx(3.037612133914045e-16, rel=1e-9)
    assert (t_tails(0, 3), t_tails(math.inf, 3)) == (1.0, 0.0)


def test_the_spread_of_seeds_has_students_interval() -> None:
    found = spread([2.0, 4.0, 9.0])
    assert (found.seeds, found.mean, found.least, found.greatest) == (3, 5.0, 2.0, 9.0)
    assert found.deviation == pytest.approx(math.sqrt(13))
    assert (found.low, found.high) == pytest.approx((-3.9566858950295973, 13.956685895029597))  # stats.t.interval
    one = spread([2.0])
    assert one.mean == 2.0 and all(map(math.isnan, (one.deviation, one.low, one.high)))


def test_welchs_test_is_that_of_scipy() -> None:
    first = [82.10, 82.31, 82.10]
    second = [78.17, 81.30, 82.22, 80.5]
    assert welch_p(first, second) == pytest.approx(0.15777231160203864)  # stats.ttest_ind(equal_var=False)
    assert welch_p([1, 2, 3], [4, 5, 7]) == pytest.approx(0.041914517471454034)
    assert welch_p([0.1] * 3, [0.1] * 4) == 1.0


# -- seeds and rows together ------------------------------------------------------------------------------------------


def test_where_rows_do_not_vary_the_test_is_welchs() -> None:
    first = np.repeat([[1.0], [2.0], [3.0]], 20, axis=1)
    second = np.repeat([[4.0], [5.0], [7.0]], 20, axis=1)
    found = compare_seeds(scores(first), scores(second))
    assert (found.effect, found.rows) == (pytest.approx(10 / 3), 20)
    assert found.p_value == pytest.approx(0.041914517471454034) == found.welch_p
    assert found.low < 10 / 3 < found.high


def test_where_seeds_do_not_vary_the_test_is_the_paired_t_test_of_the_rows() -> None:
    first = np.tile([0.1, 0.5, 0.2, 0.9, 0.4, 0.3], (3, 1))
    second = np.tile([0.3, 0.6, 0.1, 1.0, 0.8, 0.35], (4, 1))
    found = compare_seeds(scores(first), scores(second))  # stats.ttest_rel and its confidence interval
    assert found.p_value == pytest.approx(0.12546401222558878)
    assert (found.low, found.high) == pytest.approx((-0.04981846513849178, 0.29981846513849175))


def test_the_test_is_the_quasi_f_of_an_analysis_of_variance() -> None:
    """F'' = MS of configurations / (MS of seeds + MS of rows by configurations - MS of the residuals), balanced."""
    data = np.array(simulated(np.random.default_rng(1), 4, 12, 0.6, 0.6, 0.5))  # (configurations, seeds, rows)
    _, seeds, rows = data.shape
    grand = data.mean()
    of_configuration = data.mean(axis=(1, 2), keepdims=True)
    of_seed = data.mean(axis=2, keepdims=True)
    of_row = data.mean(axis=(0, 1), keepdims=True)
    of_both = data.mean(axis=1, keepdims=True)
    ms_configuration = seeds * rows * ((of_configuration - grand) ** 2).sum()
    ms_seed = rows * ((of_seed - of_configuration) ** 2).sum() / (2 * (seeds - 1))
    ms_both = seeds * ((of_both - of_configuration - of_row + grand) ** 2).sum() / (rows - 1)
    residuals = data - of_seed - of_both + of_configuration
    ms_residual = (residuals**2).sum() / (2 * (seeds - 1) * (rows - 1))
    denominator = ms_seed + ms_both - ms_residual
    assert denominator > max(ms_seed, ms_both)
    found = compare_seeds(scores(data[0]), scores(data[1]))
    half = (found.high - found.low) / 2
    variance = denominator * 2 / (seeds * rows)
    assert found.effect**2 / variance == pytest.approx(ms_configuration / denominator)
    freedom = next(
        f for f in np.arange(2, 60, 1e-3) if t_tails(found.effect / math.sqrt(variance), f) <= found.p_value
    )
    assert half == pytest.approx(t_quantile(float(freedom)) * math.sqrt(variance), rel=1e-3)


@pytest.mark.parametrize(
    ("seeds", "of_seed", "of_row"),
    [(3, 0.1, 0.3), (3, 0.3, 0.0), (6, 0.05, 0.5)],
)
def test_the_interval_covers_the_truth_in_95_of_100_cases(seeds: int, of_seed: float, of_row: float) -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(500):
        first, second = simulated(rng, seeds, 60, of_seed, of_row, 0.2)
        found = compare_seeds(scores(first), scores(second))
        covered += found.low <= 0.2 <= found.high
        assert (found.p_value < 0.05) == (not found.low <= 0 <= found.high)
    assert 0.93 <= covered / 500 <= 0.97


def test_seeds_of_one_configuration_are_no_two_in_95_of_100_splits() -> None:
    rng = np.random.default_rng(0)
    stars = 0
    for _ in range(100):
        runs = simulated(rng, 8, 60, 0.2, 0.0, 0.0)[0]
        for _ in range(4):
            order = rng.permutation(8)
            stars += compare_seeds(scores(runs[order[:4]]), scores(runs[order[4:]])).significant
    assert 0.93 <= 1 - stars / 400 <= 0.98


def test_a_score_that_is_no_mean_is_as_certain_as_its_rows_make_it() -> None:
    """A ratio of sums; the delta method has its standard error: sd of (x - ratio * n) / mean n, over sqrt(rows)."""
    rng = np.random.default_rng(0)
    counts = rng.integers(5, 30, 400).astype(float)
    rates = rng.uniform(1, 2, 400)
    first = pooled_score("x", "s", "ratio", np.stack([counts, counts], 1).tolist(), None, False)
    second = pooled_score("x", "s", "ratio", np.stack([counts * rates, counts], 1).tolist(), None, False)
    found = compare_seeds([first] * 3, [second] * 3)
    ratio = (counts * rates).sum() / counts.sum()
    error = (counts * rates - ratio * counts).std(ddof=1) / counts.mean() / math.sqrt(400)
    assert found.effect == pytest.approx(ratio - 1)
    assert found.high - found.effect == pytest.approx(t_quantile(399) * error, rel=0.02)


def test_fewer_than_three_seeds_have_an_effect_and_no_test() -> None:
    runs = np.arange(24.0).reshape(2, 12)
    found = compare_seeds(scores(runs), scores(np.vstack([runs + 5, runs[:1]])))
    assert found.effect == pytest.approx(runs.mean() * 2 / 3 + runs[0].mean() / 3 + 10 / 3 - runs.mean())
    assert all(map(math.isnan, (found.low, found.p_value, found.p_corrected, found.welch_p)))
    assert not found.significant


def test_rows_without_a_score_in_one_run_are_left_out_of_all() -> None:
    runs = np.random.default_rng(0).normal(size=(6, 10))
    holed = runs.copy()
    holed[2, 3] = math.nan
    kept = np.delete(runs, 3, axis=1)
    found = compare_seeds(scores(holed[:3]), scores(holed[3:]))
    expected = compare_seeds(scores(kept[:3]), scores(kept[3:]))
    assert (found.rows, found.p_value) == (9, pytest.approx(expected.p_value))


def test_a_score_whose_rows_do_not_add_up_has_welchs_test_alone() -> None:
    values = ([0.1, 0.2, 0.4], [0.5, 0.6, 0.9])
    groups = [[Score("distinct1", value, "s", None, True) for value in part] for part in values]
    found = compare_seeds(*groups)
    assert found.effect == pytest.approx(1.3 / 3) and math.isnan(found.p_value)
    assert found.welch_p == welch_p(*values)


def test_scores_of_different_rows_are_refused() -> None:
    with pytest.raises(
        ValueError, match="`x` must be of the same rows and pooled alike in all runs, got 4 rows by mean"
    ):
        compare_seeds(scores(np.ones((3, 4))), scores(np.ones((3, 5))))


def test_the_notes_count_the_tests_of_rows_and_those_of_seeds_alone() -> None:
    """Of a score that rows do not add up to there is Welch's p alone."""
    runs = SimpleNamespace(runs=dict.fromkeys(range(3)), metrics=dict.fromkeys(("x", "distinct1")))
    found = {
        "x": SeedDifference(1.0, 0.5, 1.5, 0.01, 0.01, 8, welch_p=0.01, welch_corrected=0.02),
        "distinct1": SeedDifference(1.0, welch_p=0.02, welch_corrected=0.02),
    }
    one = spread([1.0, 2.0, 3.0])
    compared = {"other": {name: replace(each, first=one, second=one) for name, each in found.items()}}
    (note,) = comparison_lines({"first": runs, "other": runs}, compared)[-1]
    assert "It is corrected for 2, p for 1 comparison (Holm)" in note
    found["distinct1"] = found["x"]
    compared = {"other": {name: replace(each, first=one, second=one) for name, each in found.items()}}
    assert (
        "Both are corrected for 2 comparisons (Holm)" in comparison_lines({"a": runs, "other": runs}, compared)[-1][0]
    )
