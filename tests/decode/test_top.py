import jax.numpy as jnp
import numpy as np
import pytest

from cat_jax.decode.top import top


def sorted_by_hand(values, count):
    ids = np.lexsort((np.broadcast_to(np.arange(values.shape[-1]), values.shape), -values), axis=-1)[..., :count]
    return np.take_along_axis(values, ids, -1), ids


@pytest.mark.parametrize(("size", "count"), [(5, 5), (300, 8), (1000, 3), (5000, 8)])
@pytest.mark.parametrize("few", [True, False], ids=["ties", "no ties"])
def test_is_a_stable_sort(size, count, few):
    rng = np.random.default_rng(size)
    values = (rng.integers(0, 4, (3, 2, size)) if few else rng.normal(size=(3, 2, size))).astype(np.float32)
    found, ids = top(jnp.asarray(values), count)
    expected, expected_ids = sorted_by_hand(values, count)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(ids, expected_ids)


def test_masked_columns_come_last_and_once():
    """Fewer numbers than are asked for, far apart: no id is found twice."""
    values = np.full((1, 4000), -np.inf, np.float32)
    values[0, [3999, 2000, 7]] = [1, 3, 2]
    found, ids = top(jnp.asarray(values), 6)
    assert ids[0, :3].tolist() == [2000, 7, 3999]
    assert len(set(ids[0].tolist())) == 6
    assert (np.asarray(found)[0, 3:] == -np.inf).all()
