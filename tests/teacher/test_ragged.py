"""Records of unequal length: packed, and found again."""

import numpy as np

from cat_jax.teacher.ragged import Ragged, RestIndex


def test_what_is_packed_is_found_again():
    """The head's first byte is the rest's size; more records than one stride of the index, some rests empty."""
    rng = np.random.default_rng(0)
    records = rng.integers(1, 256, (200, 9), np.uint8)
    records[:, 0] = rng.integers(0, 8, 200)
    for record in records:
        record[2 + record[0] :] = 0
    ragged = Ragged(2, lambda heads: heads[:, 0].astype(np.int64))
    content = np.frombuffer(ragged.pack(records), np.uint8)
    index = RestIndex(records[:, 0].astype(np.int64))
    assert len(content) == 200 * 2 + records[:, 0].sum() == 200 * 2 + index.total
    assert (content[:400].reshape(200, 2) == records[:, :2]).all()
    positions = rng.permutation(200)
    for position, begin, size in zip(positions, *index.find(positions), strict=True):
        assert (content[400 + begin : 400 + begin + size] == records[position, 2 : 2 + size]).all()
        assert size == records[position, 0]


def test_an_empty_shard():
    assert Ragged(2, lambda heads: heads[:, 0]).pack(np.zeros((0, 9), np.uint8)) == b""
    assert RestIndex(np.zeros(0, np.int64)).total == 0
