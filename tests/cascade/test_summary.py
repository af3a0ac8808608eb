"""Each summary metric against a number computed by hand, and its meaning on simple curves."""

import numpy as np
import pytest
from cascade_tables import random_view, tiny, undefined, view

from cat_jax.cascade.summary import against, auroc, four_cells, summarize
from cat_jax.cascade.view import pool_at_equal_rates


def numbers(made, rates=(0.1, 0.3), kept=(0.95,)):
    found = summarize(made, made.curve(), rates, kept)
    return {name: values.item() for name, values in found.items()}


def test_every_metric_of_the_tiny_view():
    assert numbers(tiny()) == pytest.approx(
        {
            "small_quality": 50.0,
            "large_quality": 75.0,
            "auc_df": 78.125,
            "auc_random": 62.5,
            "gain_over_random": 15.625,
            "gain_over_random_percent": 25.0,
            "auc_ideal": 84.375,
            "share_of_ideal": 15.625 / 21.875,
            "auroc": 0.75,  # right: -3, -1; wrong: -4, -2; three of four pairs
            "qnc": 0.35,  # 75 is reached at 3.5 FLOPs; the large model costs 10
            "small_cost": 0.1,
            "quality_at_10": 60.0,
            "quality_at_30": 75.0,
            "flops_saved_at_95": 0.6875,  # 71.25 is reached at 3.125 FLOPs
        }
    )


def test_qnc_of_a_useless_order_is_paying_for_both():
    # The one query that only the large model gets right is deferred last.
    found = numbers(view([1, 2, 3, 4], [100, 100, 100, 0], [100, 100, 100, 100], 1, 10))
    assert found["qnc"] == pytest.approx(1.1)
    # 95 lies between 3 deferred (75, at 8.5 FLOPs) and 4 (100, at 11).
    assert found["flops_saved_at_95"] == pytest.approx(1 - (8.5 + 0.8 * 2.5) / 10)


def test_a_small_model_that_is_as_good_needs_no_deferral():
    found = numbers(view([1, 2], [100, 0], [0, 100], 1, 10))
    assert found["qnc"] == pytest.approx(0.1)
    assert found["flops_saved_at_95"] == pytest.approx(0.9)


@pytest.mark.parametrize("seed", range(20))
def test_fractional_scores_reach_the_large_models_quality_where_nothing_changes_any_more(seed):
    """The sure half has the same answers from both, so deferring the unsure half gives all there is to gain."""
    generator = np.random.default_rng(seed)
    large = generator.random(400) * 100  # scores such as F1's, that do not add up without rounding
    small = np.concatenate([large[:200] * generator.random(200), large[200:]])
    found = numbers(view(np.arange(400), small, large, 1, 10), kept=(0.95, 1.0))
    assert found["qnc"] == pytest.approx(0.1 + 0.5)
    assert found["flops_saved_at_100"] == pytest.approx(1 - 0.6)


def test_a_quality_that_one_example_lacks_is_not_reached():
    """Rounding is forgiven, an example in ten thousand is not: it is the surest, so only the last deferral has it."""
    large = np.full(10_000, 33.3)
    small = np.concatenate([large[:-1], [33.2]])
    assert numbers(view(np.arange(10_000), small, large, 1, 10))["qnc"] == pytest.approx(1.1)


def test_what_is_not_defined_is_nan():
    found = numbers(view([1, 2], [100, 100], [100, 100]))
    assert np.isnan(found["share_of_ideal"])
    assert np.isnan(found["auroc"])
    assert np.isnan(numbers(view([1, 2], [0, 0], [0, 0]))["gain_over_random_percent"])


@pytest.mark.parametrize("seed", range(5))
def test_points_without_a_quality_leave_the_others_within_reach(seed):
    """Q(1) is reached at r = 1, whatever is not defined before it."""
    made = random_view(seed)
    full, gaps = numbers(made), numbers(undefined(made, 20, 60, 61, 140, 199))
    paid = 1 + full["small_cost"]
    assert full["qnc"] <= gaps["qnc"] <= paid
    assert 1 - paid <= gaps["flops_saved_at_95"] <= full["flops_saved_at_95"]
    assert gaps["qnc"] < full["qnc"] + 0.03, "the next point is two queries away at most"
    assert (gaps["small_quality"], gaps["large_quality"]) == (full["small_quality"], full["large_quality"])
    assert np.isnan(gaps["auc_df"])
    ends = numbers(undefined(made, len(made)))
    assert np.isnan([ends["qnc"], ends["flops_saved_at_95"], ends["large_quality"]]).all()
    gained = against(undefined(made, 60).curve(), undefined(made, 60).curve(), 0.3)
    assert np.isnan([*gained["flops_saved"], *gained["quality_gained"]]).all()


def test_the_ideal_at_equal_rates_routes_between_tasks_all_the_same():
    """At the same rate in each no order is above the random line: one task gains by every query, the other by none."""
    gains, equal = view([1, 2], [0, 0], [100, 100], task="gains"), view([1, 2], [0, 0], [0, 0], task="equal")
    found = numbers(pool_at_equal_rates([gains, equal]))
    assert found["auc_ideal"] == 37.5
    assert found["share_of_ideal"] == 0


def test_share_of_ideal_is_1_for_the_oracle_and_0_for_ties():
    made = random_view(0)
    oracle = view(made.small_scores - made.large_scores, made.small_scores, made.large_scores)
    assert numbers(oracle)["share_of_ideal"] == pytest.approx(1)
    blind = view(np.zeros(len(made)), made.small_scores, made.large_scores)
    assert numbers(blind)["share_of_ideal"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("confidence", "right", "expected"),
    [
        ([1, 2, 3, 4], [0, 0, 1, 1], 1.0),
        ([1, 2, 3, 4], [1, 1, 0, 0], 0.0),
        ([1, 1, 1, 1], [0, 1, 0, 1], 0.5),
        ([1, 2, 2, 3], [0, 0, 1, 1], 0.875),
    ],
)
def test_auroc(confidence, right, expected):
    made = view(confidence, 100 * np.array(right), [100] * 4)
    assert auroc(made.curve()).tolist() == [expected]


def test_auroc_equals_counting_pairs_under_weights():
    made = random_view(1, 60, levels=3)
    weights = np.random.default_rng(0).integers(0, 3, (60, 2)).astype(float)
    right = made.small_scores > 50
    for r, got in enumerate(auroc(made.curve(weights))):
        pairs = won = 0.0
        for i in np.flatnonzero(right):
            for j in np.flatnonzero(~right):
                w = weights[i, r] * weights[j, r]
                pairs += w
                a, b = made.confidence[i], made.confidence[j]
                won += w * ((a > b) + 0.5 * (a == b))
        assert got == pytest.approx(won / pairs)


def test_against_the_baseline_at_its_own_point():
    better = view([-4, -3, -2, -1], [0, 100, 100, 100], [100, 100, 100, 0])
    found = against(better.curve(), tiny().curve(), 0.25)
    # The baseline has 75 at 3.5 FLOPs; the better one has 75 at 1 FLOP, and 100 at 3.5.
    assert found["flops_saved"].tolist() == pytest.approx([1 - 1 / 3.5])
    assert found["quality_gained"].tolist() == [25.0]
    same = against(tiny().curve(), tiny().curve(), 0.25)
    assert same["flops_saved"].tolist() == [0.0]
    assert same["quality_gained"].tolist() == [0.0]


def test_a_quality_that_is_never_reached_saves_minus_infinity():
    poor = view([1, 2], [0, 0], [0, 0])
    assert against(poor.curve(), tiny().curve(), 0.25)["flops_saved"].tolist() == [-np.inf]


def test_four_cells():
    assert four_cells(tiny()) == {
        "both_right": 0.25,
        "small_only_right": 0.25,
        "large_only_right": 0.5,
        "both_wrong": 0.0,
    }
    half = view([1, 2], [50, 49.9], [0, 100])
    assert four_cells(half) == {
        "both_right": 0.0,
        "small_only_right": 0.5,
        "large_only_right": 0.5,
        "both_wrong": 0.0,
    }
