"""The paired bootstrap: reproducible, covering, paired over models, nested over seeds."""

import numpy as np
import pytest
from cascade_tables import random_view

from cat_jax.cascade.bootstrap import Resamples, estimate, interval
from cat_jax.cascade.inputs import Student
from cat_jax.cascade.measure import Reading, measure


def weights(resamples, *tasks):
    names, sizes = zip(*tasks, strict=True)
    return np.concatenate(list(resamples.blocks(names, list(map(np.arange, sizes)))), axis=1)


def test_a_resample_draws_as_many_examples_as_there_are():
    drawn = weights(Resamples(50, 0), ("a", 30), ("b", 7))
    assert drawn.shape == (37, 50)
    assert (drawn[:30].sum(axis=0) == 30).all()
    assert (drawn[30:].sum(axis=0) == 7).all()
    assert drawn.mean(axis=1).std() < 0.4


def test_draws_depend_on_the_seed_and_on_the_task_alone():
    both = weights(Resamples(20, 3), ("a", 30), ("b", 30))
    assert np.array_equal(both[30:], weights(Resamples(20, 3), ("b", 30)))
    assert not np.array_equal(both[:30], both[30:])
    assert not np.array_equal(both, weights(Resamples(20, 4), ("a", 30), ("b", 30)))


def test_blocks_are_pieces_of_the_same_draws(monkeypatch):
    whole = weights(Resamples(20, 0), ("a", 30))
    monkeypatch.setattr("cat_jax.cascade.bootstrap.BLOCK", 100)
    pieces = list(Resamples(20, 0).blocks(["a"], [np.arange(30)]))
    assert len(pieces) == 7
    assert np.array_equal(np.concatenate(pieces, axis=1), whole)


def test_dear_resamples_are_the_first_of_all():
    draws = Resamples(20, 0, dear=12)
    whole = weights(draws, ("a", 30))
    pieces = list(draws.blocks(["a"], [np.arange(30)], dear=True))
    assert np.array_equal(np.concatenate(pieces, axis=1), whole[:, :12])
    assert max(piece.shape[1] for piece in pieces) < 12, "a few at a time"
    assert (Resamples(5, 0, dear=12).used(dear=True), draws.used(dear=True), draws.used(dear=False)) == (5, 12, 20)
    assert list(Resamples(20, 0, dear=0).blocks(["a"], [np.arange(30)], dear=True)) == []


def test_rows_of_a_cluster_are_drawn_together():
    clusters = np.array([0, 0, 0, 1, 2, 2, 3, 4])
    [drawn] = Resamples(200, 0).blocks(["a"], [clusters])
    assert drawn.shape == (8, 200)
    for cluster in range(5):
        rows = drawn[clusters == cluster]
        assert (rows == rows[0]).all()
    firsts = drawn[[0, 3, 4, 6, 7]]
    assert (firsts.sum(axis=0) == 5).all(), "as many draws as clusters"
    assert np.array_equal(firsts, weights(Resamples(200, 0), ("a", 5))), "the draws of five examples"


def test_intervals_cover_at_their_level():
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        sample = generator.random(60) < 0.3
        means = sample @ weights(Resamples(300, trial), ("t", 60)) / 60
        low, high = interval(means, 0.9)
        covered += low <= 0.3 <= high
    assert 168 <= covered <= 195  # 90 % of 200, within the noise of 200 trials and of 60 examples


def test_interval_literals():
    assert interval(np.arange(101.0), 0.9) == pytest.approx([5, 95])
    assert interval(np.array([1.0, np.nan]), 0.9) is None
    assert interval(np.empty(0), 0.9) is None


def students():
    views = {f"{o}-{s}": random_view(10 * s) for o in ("xent", "cat") for s in (0, 1)}
    return views, [Student(f"{o}-{s}", o, s) for o in ("xent", "cat") for s in (0, 1)]


def test_models_are_judged_on_the_same_resamples():
    views, named = students()
    measured = measure(views, named, Reading(), Resamples(100, 0))
    # Two names for the same answers: every resample agrees, so the interval of the difference has no width.
    ours, twin = measured.resampled["cat-0"], measured.resampled["xent-0"]
    assert np.array_equal(ours.metrics["auc_df"], twin.metrics["auc_df"])
    assert np.ptp(measured.resampled["cat-1"].metrics["auc_df"]) > 1
    assert set(ours.metrics["flops_saved"].tolist()) == {0.0}


def test_measuring_again_gives_the_same_numbers():
    views, named = students()
    first, second = (measure(views, named, Reading(), Resamples(30, 5)) for _ in range(2))
    for name in views:
        assert np.array_equal(first.resampled[name].quality, second.resampled[name].quality)


def test_the_resampled_mean_is_near_the_estimate():
    views, named = students()
    measured = measure(views, named, Reading(), Resamples(400, 0))
    for name in ("small_quality", "auc_df", "quality_at_30", "auroc"):
        point = measured.estimate["xent-0"].metrics[name][0]
        drawn = measured.resampled["xent-0"].metrics[name]
        assert abs(drawn.mean() - point) < 4 * drawn.std() / np.sqrt(400) + 0.01 * drawn.std()


def test_no_resamples_no_intervals():
    views, named = students()
    measured = measure(views, named, Reading(), Resamples(0, 0))
    assert measured.resampled["xent-0"].metrics["auc_df"].shape == (0,)
    assert measured.resampled["xent-0"].quality.shape == (0, 101)


def test_an_estimate_over_seeds():
    draws = Resamples(4, 0)
    samples = [np.array([1.0, 2, 3, 4]), np.array([5.0, 6, 7, 8])]
    found = estimate({0: 2.0, 7: 6.0}, samples, draws, 0.5)
    assert found.mean == 4.0
    assert found.spread == pytest.approx(np.sqrt(8))
    assert found.seeds == {"0": 2.0, "7": 6.0}
    assert found.interval == pytest.approx([3.75, 5.25])  # quartiles of 3, 4, 5, 6
    picked = np.take_along_axis(np.stack(samples).T, draws.seed_draws(2), axis=1).mean(axis=1)
    assert found.nested == pytest.approx(np.quantile(picked, [0.25, 0.75]).tolist())


def test_seeds_that_differ_widen_the_nested_interval_only():
    generator = np.random.default_rng(0)
    noise = generator.normal(0, 0.1, 1000)
    found = estimate({s: 10.0 * s for s in range(4)}, [noise + 10.0 * s for s in range(4)], Resamples(1000, 0), 0.95)
    assert found.interval[1] - found.interval[0] < 1
    assert found.nested[1] - found.nested[0] > 10


def test_a_single_seed_has_neither_spread_nor_nested_interval():
    found = estimate({3: 1.0}, [np.array([0.0, 2.0])], Resamples(2, 0), 0.95)
    assert found.spread is None
    assert found.nested is None
