"""Deferral curves: literals, exact ends, ties, the random and the ideal line, invariance."""

import warnings

import numpy as np
import pytest
from cascade_tables import random_view, tiny, undefined, view

from cat_jax.cascade.curve import random_quality
from cat_jax.cascade.running import ordering
from cat_jax.cascade.view import pool, pool_at_equal_rates


def test_every_number_of_a_tiny_curve():
    curve = tiny().curve()
    assert curve.thresholds.tolist() == [-np.inf, -3, -2, -1, np.inf]
    assert curve.rate.tolist() == [[0, 0.25, 0.5, 0.75, 1]]
    assert curve.quality.tolist() == [[50, 75, 75, 100, 75]]
    assert curve.cost.tolist() == [[1, 3.5, 6, 8.5, 11]]
    assert curve.large_cost.tolist() == [10]
    assert curve.right.tolist() == [[0, 0, 0.25, 0.25, 0.5]]
    # 0.25 x (50 / 2 + 75 + 75 + 100 + 75 / 2)
    assert curve.area().tolist() == [78.125]


def test_reading_between_points():
    curve = tiny().curve()
    assert curve.at_rate(0.1).tolist() == [60.0]
    assert curve.at_rate(0.3).tolist() == [75.0]
    assert curve.at_rate(0.0).tolist() == [50.0]
    assert curve.at_rate(1.0).tolist() == [75.0]
    assert curve.cost_at_rate(0.3).tolist() == pytest.approx([4.0])
    assert curve.at_cost(np.array([2.25])).tolist() == [62.5]
    assert curve.at_cost(np.array([99.0])).tolist() == [75.0]
    assert np.isnan(curve.at_cost(np.array([0.5]))).all()
    assert curve.least_cost(np.array([75.0])).tolist() == [3.5]
    assert curve.least_cost(np.array([71.25])).tolist() == [3.125]
    assert curve.least_cost(np.array([40.0])).tolist() == [1.0]
    assert curve.least_cost(np.array([100.5])).tolist() == [np.inf]


def test_a_point_without_a_quality_takes_nothing_from_the_others():
    curve = undefined(tiny(), 3).curve()
    assert curve.reaches(np.array([75.0])).tolist() == [[False, True, True, False, True]]
    assert curve.least_cost(np.array([75.0])).tolist() == [3.5]
    assert curve.rounding[0] == tiny().curve().rounding[0] * 75 / 100
    assert curve.at_rate(0.3).tolist() == [75.0]
    assert curve.at_rate(1.0).tolist() == [75.0]
    assert np.isnan([*curve.at_rate(0.6), *curve.area()]).all()


def test_a_quality_is_not_reached_on_the_line_from_a_point_without_one():
    curve = undefined(tiny(), 1).curve()
    assert curve.least_cost(np.array([71.25])).tolist() == [6.0]
    assert curve.at_rate(0.0).tolist() == [50.0]
    assert curve.at_cost(np.array([1.0])).tolist() == [50.0]
    assert np.isnan(curve.at_rate(0.1)).all()


def test_what_is_wanted_may_not_be_defined_itself():
    assert np.isnan(tiny().curve().least_cost(np.array([np.nan]))).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        curve = undefined(tiny(), *range(5)).curve(np.ones((4, 2)))
    assert curve.rounding.tolist() == [0, 0]
    assert curve.least_cost(np.array([0.0, np.nan])).tolist() == pytest.approx([np.inf, np.nan], nan_ok=True)


def test_queries_of_equal_confidence_are_deferred_together():
    curve = view([-2, -1, -2, -1], [0, 0, 100, 100], [100, 100, 0, 100]).curve()
    assert curve.thresholds.tolist() == [-np.inf, -1, np.inf]
    assert curve.rate.tolist() == [[0, 0.5, 1]]
    assert curve.quality.tolist() == [[50, 50, 75]]
    assert view([7, 7], [0, 0], [100, 0]).curve().rate.tolist() == [[0, 1]]


def test_the_threshold_defers_exactly_those_below_it():
    made = random_view(3, levels=4)
    curve = made.curve()
    for threshold, rate, quality in zip(curve.thresholds, curve.rate[0], curve.quality[0], strict=True):
        deferred = made.confidence < threshold
        assert rate == deferred.mean()
        assert quality == pytest.approx(np.where(deferred, made.large_scores, made.small_scores).mean(), rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_ends_are_exactly_each_model_alone(seed):
    generator = np.random.default_rng(seed)
    small, large = generator.random((2, 997)) * 100  # scores that do not add up without rounding
    curve = view(generator.normal(size=997), small, large).curve()
    ones = np.ones(997)
    assert curve.quality[0, 0] == (ones @ small) / 997
    assert curve.quality[0, -1] == (ones @ large) / 997
    assert curve.rate[0, [0, -1]].tolist() == [0.0, 1.0]


def test_order_of_rows_does_not_matter():
    made = random_view(0, levels=3)
    shuffle = np.random.default_rng(1).permutation(len(made))
    other = view(
        made.confidence[shuffle],
        made.small_scores[shuffle],
        made.large_scores[shuffle],
        made.small_cost[shuffle],
        made.large_cost[shuffle],
    )
    for name in ("thresholds", "rate", "quality", "cost", "right"):
        np.testing.assert_allclose(getattr(made.curve(), name), getattr(other.curve(), name), rtol=1e-12)


def test_random_confidence_follows_the_random_line():
    made = random_view(0, 20_000, informative=False)
    curve = made.curve()
    rates = np.linspace(0, 1, 21)
    assert np.abs(curve.on_grid(rates) - random_quality(curve, rates)).max() < 1.5
    assert random_quality(curve, np.array([0.0, 0.5, 1.0]))[0].tolist() == pytest.approx(
        [curve.quality[0, 0], (curve.quality[0, 0] + curve.quality[0, -1]) / 2, curve.quality[0, -1]]
    )


@pytest.mark.parametrize("seed", range(10))
def test_no_order_beats_the_ideal_one(seed):
    generator = np.random.default_rng(seed)
    small, large = generator.choice([0.0, 40.0, 100.0], (2, 60))
    rates = np.linspace(0, 1, 61)
    for confidence in (generator.normal(size=60), small, -large, small - large):
        made = view(confidence, small, large)
        ideal = made.ideal_curve()
        assert (made.curve().on_grid(rates) <= ideal.on_grid(rates) + 1e-9).all()
        assert (random_quality(ideal, rates) <= ideal.on_grid(rates) + 1e-9).all()


def test_the_ideal_curve_of_the_tiny_view():
    ideal = tiny().ideal_curve()
    assert ideal.rate.tolist() == [[0, 0.5, 0.75, 1]]
    assert ideal.quality.tolist() == [[50, 100, 100, 75]]
    assert ideal.area().tolist() == [84.375]


def test_a_weighted_curve_is_the_curve_of_repeated_rows():
    made = random_view(5, 80, levels=4)
    weights = np.random.default_rng(0).integers(0, 4, (80, 3)).astype(float)
    curve = made.curve(weights)
    for r in range(3):
        rows = np.repeat(np.arange(80), weights[:, r].astype(int))
        repeated = view(
            made.confidence[rows],
            made.small_scores[rows],
            made.large_scores[rows],
            made.small_cost[rows],
            made.large_cost[rows],
        ).curve()
        np.testing.assert_allclose(curve.area()[r], repeated.area()[0], rtol=1e-12)
        np.testing.assert_allclose(curve.large_cost[r], repeated.large_cost[0], rtol=1e-12)
        for rate in (0.0, 0.1, 0.3, 0.77, 1.0):
            np.testing.assert_allclose(curve.at_rate(rate)[r], repeated.at_rate(rate)[0], rtol=1e-9)
            np.testing.assert_allclose(curve.cost_at_rate(rate)[r], repeated.cost_at_rate(rate)[0], rtol=1e-9)


def test_a_long_curve_is_resampled_on_fewer_points_that_hardly_move_it():
    made = random_view(6, 5000)
    ones = np.ones((5000, 2))
    thin, full = made.curve(ones), made.curve()
    assert thin.rate.shape[1] == 201
    assert abs(thin.area()[0] - full.area()[0]) < 0.02
    assert thin.quality[0, [0, -1]].tolist() == pytest.approx(full.quality[0, [0, -1]].tolist(), rel=1e-12)


def test_fewer_cuts_are_spread_over_the_order_and_keep_both_ends():
    where = ordering(np.random.default_rng(0).normal(size=1000), 11)
    assert where.cuts.tolist() == list(range(0, 1001, 100))
    tied = ordering(np.array([0.0] * 990 + list(range(1, 11))), 5)
    assert tied.cuts[0] == 0
    assert tied.cuts[-1] == 1000
    assert set(tied.cuts.tolist()) <= {0, *range(990, 1001)}


def test_pooling_keeps_raw_confidence_and_equal_rates_do_not():
    sure = view([-1.0, -2.0, -3.0, -4.0], [100, 100, 0, 0], [100] * 4, task="sure")
    unsure = view([-11.0, -12.0, -13.0, -14.0], [0, 100, 0, 100], [100, 0, 100, 100], task="unsure")
    together = pool([sure, unsure])
    assert together.deferred_by_task(0.5) == {"sure": 0.0, "unsure": 1.0}
    assert together.curve().quality[0].tolist() == [50, 50, 62.5, 50, 62.5, 75, 87.5, 87.5, 87.5]
    equal = pool_at_equal_rates([sure, unsure])
    assert equal.deferred_by_task(0.5) == {"sure": 0.5, "unsure": 0.5}
    assert equal.curve().rate[0].tolist() == [0, 0.25, 0.5, 0.75, 1]
    # One of each task at a time: -4 and -14, then -3 and -13, then -2 and -12, then -1 and -11.
    assert equal.curve().quality[0].tolist() == [50, 62.5, 87.5, 75, 87.5]


def test_equal_rates_of_unequal_tasks():
    long, short = random_view(1, 300), random_view(2, 100)
    short = view(short.confidence - 50, short.small_scores, short.large_scores, task="short")
    shares = pool_at_equal_rates([long, short]).deferred_by_task(0.3)
    assert shares["t"] == pytest.approx(0.3, abs=0.01)
    assert shares["short"] == pytest.approx(0.3, abs=0.02)
    unlike = pool([long, short]).deferred_by_task(0.3)
    assert unlike["short"] == 1, "under one threshold all of these are less sure"
