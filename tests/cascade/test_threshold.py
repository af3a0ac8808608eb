"""Thresholds: parsed, picked within their budget, applied to another split."""

import numpy as np
import pytest
from cascade_tables import random_view, tiny, undefined, view

from cat_jax.cascade.threshold import Target, apply, parse_target, pick
from cat_jax.errors import UserError


@pytest.mark.parametrize(
    ("target", "threshold"),
    [
        ("rate=0", -np.inf),
        ("rate=0.25", -3.0),
        ("rate=0.49", -3.0),
        ("rate=0.5", -2.0),
        ("rate=1", np.inf),
        ("quality=0.5", -np.inf),
        ("quality=1", -3.0),
        ("quality=1.3", -1.0),
        ("flops=0.1", -np.inf),
        ("flops=0.36", -3.0),
        ("cost=0.36", -3.0),
        ("flops=2", np.inf),
        ("quality=1.4", None),
        ("flops=0.05", None),
    ],
)
def test_picks_on_the_tiny_view(target, threshold):
    assert pick(tiny(), parse_target(target)) == threshold


@pytest.mark.parametrize("seed", range(20))
def test_fractional_scores_reach_all_of_the_large_models_quality(seed):
    generator = np.random.default_rng(seed)
    large = generator.random(400) * 100
    small = np.concatenate([large[:200] * generator.random(200), large[200:]])
    assert pick(view(np.arange(400), small, large), parse_target("quality=1")) == 200


@pytest.mark.parametrize(
    ("lacking", "target", "threshold"),
    [
        (3, "quality=1", -3.0),
        (3, "quality=1.3", None),
        (1, "quality=1", -2.0),
        (4, "quality=0.5", None),
        (3, "rate=0.8", -1.0),
    ],
)
def test_a_quality_is_picked_among_the_points_that_have_one(lacking, target, threshold):
    assert pick(undefined(tiny(), lacking), parse_target(target)) == threshold


def test_applies_to_another_split():
    test = view([-3.5, -3.0, -0.5, -9.0], [0, 100, 100, 0], [100, 0, 0, 0], 1, 10)
    found = apply(test, -3.0)
    assert {name: values.tolist() for name, values in found.items()} == {
        "rate": [0.5],
        "quality": [75.0],
        "flops": [0.6],
    }


@pytest.mark.parametrize("seed", range(3))
def test_a_point_applied_to_its_own_split_is_on_the_curve(seed):
    made = random_view(seed, levels=5)
    curve = made.curve()
    for p in range(len(curve.thresholds)):
        found = apply(made, curve.thresholds[p])
        assert found["rate"][0] == pytest.approx(curve.rate[0, p])
        assert found["quality"][0] == pytest.approx(curve.quality[0, p])
        assert found["flops"][0] == pytest.approx(curve.cost[0, p] / curve.large_cost[0])


def test_weights_repeat_rows():
    made = random_view(4, 50)
    weights = np.random.default_rng(0).integers(0, 3, (50, 6)).astype(float)
    found = apply(made, 0.2, weights)
    for r in range(6):
        rows = np.repeat(np.arange(50), weights[:, r].astype(int))
        deferred = made.confidence[rows] < 0.2
        scores = np.where(deferred, made.large_scores[rows], made.small_scores[rows])
        assert found["rate"][r] == pytest.approx(deferred.mean())
        assert found["quality"][r] == pytest.approx(scores.mean())


@pytest.mark.parametrize(
    "text", ["rate", "rate=1.1", "rate=-0.1", "speed=3", "rate=0.3.3", "flops=inf", "quality=1e999"]
)
def test_targets_that_make_no_sense(text):
    with pytest.raises(UserError, match=r"rate=0\.3, quality=0\.95 or cost=0\.5"):
        parse_target(text)


def test_targets_in_words():
    assert parse_target(" quality = 0.95 ") == Target("quality", 0.95)
    assert parse_target("quality=0.95").words() == "reach 95 % of the large model's quality"
