"""Mixing and shuffling by position."""

import numpy as np
import pytest

from cat_jax.data.order import ExampleOrder, draws, permute, proportions


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 16, 17, 1000, 65_537])
def test_permute_is_a_permutation_for_every_key(count):
    for key in (0, 1, 2**64 - 1):
        found = permute(np.arange(count), count, np.full(count, key, np.uint64))
        assert sorted(found.tolist()) == list(range(count))


def test_permutations_differ_by_key_and_look_random():
    count, keys = 5, 20_000
    first = permute(np.zeros(keys, np.int64), count, np.arange(keys, dtype=np.uint64))
    # Where position 0 goes, over keys: uniform. 5 sigma of a binomial(20000, 1/5) are 283.
    assert np.abs(np.bincount(first, minlength=count) - keys / count).max() < 283
    both = permute(np.ones(keys, np.int64), count, np.arange(keys, dtype=np.uint64)) + count * first
    pairs = np.bincount(both, minlength=25).reshape(5, 5)
    assert (np.diag(pairs) == 0).all()
    assert np.abs(pairs[~np.eye(5, dtype=bool)] - keys / 20).max() < 5 * np.sqrt(keys / 20)
    shuffled = permute(np.arange(10_000), 10_000, np.full(10_000, 3, np.uint64))
    assert abs(np.corrcoef(np.arange(10_000), shuffled)[0, 1]) < 0.05
    assert abs(np.corrcoef(shuffled[:-1], shuffled[1:])[0, 1]) < 0.05


def test_the_shuffle_does_not_change_between_versions():
    """A resumed run reads on where the last one stopped, also after an upgrade: change these only with the version."""
    assert permute(np.arange(10), 10, np.full(10, 7, np.uint64)).tolist() == GOLDEN_PERMUTATION
    tasks, indices = ExampleOrder([3, 5], [1.0, 2.0], ["a", "b"], seed=0).at(np.arange(9))
    assert tasks.tolist() == GOLDEN_TASKS
    assert indices.tolist() == GOLDEN_INDICES


GOLDEN_PERMUTATION = [4, 9, 2, 3, 1, 7, 0, 6, 5, 8]
GOLDEN_TASKS = [0, 1, 1, 0, 1, 1, 0, 1, 1]
GOLDEN_INDICES = [2, 4, 2, 1, 0, 3, 0, 1, 4]


def test_proportions_are_exact_to_a_millionth():
    rates = [5.0, 1.0, 0.01, 300.0]
    parts = proportions(rates)
    assert parts.sum() == 1 << 24
    np.testing.assert_allclose(parts / (1 << 24), np.array(rates) / sum(rates), atol=1e-7)
    assert proportions([1.0, 1e-12, 1e-12]).tolist() == [(1 << 24) - 2, 1, 1]


def test_draws_count_what_at_gives():
    sizes, rates = [4, 7, 100], [1.0, 3.0, 0.5]
    order = ExampleOrder(sizes, rates, ["a", "b", "c"], seed=None)
    tasks, indices = order.at(np.arange(2000))
    seen = [0, 0, 0]
    for k, (task, index) in enumerate(zip(tasks.tolist(), indices.tolist(), strict=True)):
        assert draws(np.array([k]), proportions(rates))[:, 0].tolist() == seen
        assert index == seen[task] % sizes[task]
        seen[task] += 1
        assert np.abs(np.array(seen) - (k + 1) * np.array(rates) / sum(rates)).max() < 2


def test_rates_hold_within_one_percent_over_100_000_draws():
    """Rates as SeqIO resolves them: proportional to size under a cap, temperature 2, and a tiny task."""
    sizes = np.array([29_000, 6_920, 250, 500_000])
    for rates in (np.minimum(sizes, 10_000), np.minimum(sizes, 10_000) ** 0.5, np.array([1, 1.009, 1.019, 120])):
        order = ExampleOrder(sizes.tolist(), rates.tolist(), list("abcd"), seed=1)
        for start in (0, 123_457):  # from the beginning, and after a resume
            tasks, _ = order.at(np.arange(start, start + 100_000))
            realised = np.bincount(tasks, minlength=4) / 100_000
            np.testing.assert_allclose(realised, rates / rates.sum(), rtol=0.01)


def test_every_epoch_is_complete_and_in_another_order():
    order = ExampleOrder([50, 20], [1.0, 1.0], ["a", "b"], seed=3)
    tasks, indices = order.at(np.arange(400))
    epochs = indices[tasks == 0].reshape(4, 50)
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(50))
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 4
    other_tasks, other_indices = ExampleOrder([50, 20], [1.0, 1.0], ["a", "b"], seed=4).at(np.arange(400))
    assert (other_tasks == tasks).all()
    assert (other_indices != indices).any()
    # A further task changes who comes when, but not a task's own order.
    more_tasks, more = ExampleOrder([50, 20, 9], [1.0, 1.0, 1.0], ["a", "b", "c"], seed=3).at(np.arange(600))
    np.testing.assert_array_equal(more[more_tasks == 0][:200], indices[tasks == 0])


@pytest.mark.parametrize("start", [0, 1, 17, 10**9])
def test_any_position_alone_equals_the_stream(start):
    order = ExampleOrder([13, 5], [2.0, 1.0], ["a", "b"], seed=3)
    tasks, indices = order.at(np.arange(start, start + 40))
    for offset in range(40):
        task, index = order.at(np.array([start + offset]))
        assert (task[0], index[0]) == (tasks[offset], indices[offset])


def test_blocks_do_not_show():
    order = ExampleOrder([13, 5], [2.0, 1.0], ["a", "b"], seed=3)
    for start, stop in ((0, 10), (4090, 4100), (4095, 4096), (4096, 4097), (3, 9000), (8192, 8192), (5, 6)):
        for got, want in zip(order.between(start, stop), order.at(np.arange(start, stop)), strict=True):
            np.testing.assert_array_equal(got, want)


def test_epochs_end_where_the_first_task_is_exhausted():
    assert ExampleOrder([7], [1.0], ["a"], None, num_epochs=3).length == 21
    order = ExampleOrder([10, 4], [1.0, 1.0], ["a", "b"], None, num_epochs=2)
    tasks, _ = order.at(np.arange(order.length + 1))
    counts = np.bincount(tasks[:-1], minlength=2)
    assert counts[1] == 8
    assert counts[0] in (8, 9)
    assert tasks[-1] == 1, "one more would begin the third epoch of b"
