import numpy as np
import pytest

from cat_jax.evaluate.plan import batches, places, plan_chunks


@pytest.fixture
def lengths():
    return np.random.default_rng(0).integers(0, 101, 203)


def test_every_example_once_in_chunks_of_similar_ones(lengths):
    chunks = plan_chunks(lengths, 100, 8)
    assert sorted(np.concatenate([chunk.examples for chunk in chunks])) == list(range(203))
    assert [len(chunk.examples) for chunk in chunks] == [8] * 25 + [3]
    assert {chunk.input_length for chunk in chunks} == {32, 56, 100}
    for chunk in chunks:
        assert lengths[chunk.examples].max() <= chunk.input_length
    assert sum(chunk.input_length * len(chunk.examples) for chunk in chunks) < 1.5 * lengths.sum()


def test_keys_sort_within_a_padded_length(lengths):
    options = np.arange(203) % 5
    chunks = plan_chunks(lengths, 100, 1, options)
    assert sorted(chunk.examples[0] for chunk in chunks) == list(range(203))
    for shape in (32, 100):
        found = [options[chunk.examples[0]] for chunk in chunks if chunk.input_length == shape]
        assert found == sorted(found)


@pytest.mark.parametrize("devices", [1, 3, 8])
def test_a_device_computes_whole_chunks_on_any_number_of_devices(lengths, devices):
    """The rows of device d of a batch are one chunk from its beginning, or nothing."""
    rows = 4
    chunks = plan_chunks(lengths, 100, rows)
    seen = []
    for batch in batches(chunks, devices):
        assert len({chunk.input_length for chunk in batch}) == 1
        of_device = places(batch, rows, 0, 1, devices).reshape(devices, rows)
        seen += [tuple(row[row >= 0]) for row in of_device if (row >= 0).any()]
    assert seen == [tuple(chunk.examples) for chunk in chunks]


def test_parts_of_a_batch_join_to_the_whole(lengths):
    [batch, *_] = batches(plan_chunks(lengths, 100, 4), 8)
    whole = places(batch, 4, 0, 1, 8)
    np.testing.assert_array_equal(np.concatenate([places(batch, 4, part, 4, 8) for part in range(4)]), whole)
