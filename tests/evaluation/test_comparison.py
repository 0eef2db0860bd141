"""Bootstrap intervals against closed forms."""

import math

import numpy as np
import pytest

from lmrl.evaluation import Interval, bootstrap_interval, comparison, paired_interval


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="0 row scores"):
        bootstrap_interval([])


def test_one_row_has_an_interval_without_width():
    assert bootstrap_interval([3.0]) == Interval(3.0, 3.0, 3.0)


def test_a_constant_difference_has_an_interval_without_width():
    assert paired_interval([1.0, 5.0, 9.0], [3.0, 7.0, 11.0]) == Interval(2.0, 2.0, 2.0)


def test_what_is_common_to_a_row_cancels():
    rows = np.random.default_rng(0).normal(0, 100, 200)
    interval = paired_interval(rows.tolist(), (rows + 1).tolist())
    assert interval.low == pytest.approx(1) and interval.high == pytest.approx(1)
    assert interval.excludes_zero


@pytest.mark.parametrize(("confidence", "deviations"), [(0.95, 1.959964), (0.68, 0.994458)])
def test_the_interval_of_many_rows_is_the_normal_one(confidence, deviations):
    values = np.random.default_rng(0).normal(2, 3, 400)
    interval = bootstrap_interval(values.tolist(), samples=20_000, confidence=confidence)
    half = deviations * values.std() / math.sqrt(400)
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.02 * 2)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.02 * 2)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(1)
    hits = 0
    for trial in range(300):
        interval = bootstrap_interval(generator.normal(5, 1, 50).tolist(), samples=400, seed=trial)
        hits += interval.low <= 5 <= interval.high
    assert 0.90 <= hits / 300 <= 0.98


def test_draws_depend_on_the_seed_alone_and_not_on_the_chunks(monkeypatch):
    values = np.random.default_rng(0).normal(size=100).tolist()
    expected = bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=4) != expected
    monkeypatch.setattr(comparison, "_CHUNK", 700)
    assert bootstrap_interval(values, seed=3) == expected


def test_rows_that_do_not_pair_are_refused():
    with pytest.raises(ValueError, match="2 row scores before and 1 after"):
        paired_interval([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        ([1.0, math.nan], {}, "Row 1 is nan"),
        ([1.0], {"samples": 0}, "samples is 0"),
        ([1.0], {"confidence": 95}, "confidence is 95"),
    ],
)
def test_arguments_out_of_range_are_refused(values, settings, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(values, **settings)
