"""Inputs as a prefix of the targets, for decoder-only models: padded and packed batches by hand."""

import numpy as np
import pytest
from loader_cases import FEATURE, ToyReader, config, recipe

from cat_jax.data.loader import make_train_iterator
from cat_jax.data.record import Example
from cat_jax.data.store import ExampleStore
from cat_jax.data.writer import write_store
from cat_jax.errors import UserError

PREFIX_LENGTHS = {"inputs": 4, "targets": 4}
PREFIX = recipe("prefix", feature_lengths=PREFIX_LENGTHS, num_shards=1)
"""Example 0 is [5, 6] -> [7, 1], example 1 has no inputs and the target [8, 9, 1], example 2 is [4] -> [1]."""


def write_prefix_store(root):
    rows = [([5, 6], [7, 1]), ([], [8, 9, 1]), ([4], [1])]
    examples = [Example(str(k), *(np.array(side, np.int32) for side in row)) for k, row in enumerate(rows)]
    write_store(root, PREFIX, examples)


def test_inputs_as_a_prefix_by_hand(tmp_path):
    write_prefix_store(tmp_path)
    settings = config(tmp_path, "prefix", shuffle=False, batch_size=3, num_epochs=1, feature_lengths=PREFIX_LENGTHS)
    reader = {"prefix": ToyReader(ExampleStore.open(tmp_path, "prefix", "train"))}
    [host] = make_train_iterator(settings, prompt="prefix", signals=reader)
    batch = host.batch
    assert batch.decoder_target_tokens.shape == (3, 8)
    assert batch.encoder_input_tokens is None
    assert batch.decoder_positions is None

    def columns(array):
        assert not np.any(array[:, 4:])
        return array[:, :4].tolist()

    assert columns(batch.decoder_target_tokens) == [[5, 6, 7, 1], [8, 9, 1, 0], [4, 1, 0, 0]]
    assert columns(batch.decoder_loss_weights) == [[0, 0, 1, 1], [1, 1, 1, 0], [0, 1, 0, 0]]
    shifted = batch.decoder_input_tokens
    assert [row[:n].tolist() for row, n in zip(shifted, (4, 3, 2), strict=True)] == [[0, 5, 6, 7], [0, 8, 9], [0, 4]]
    # The signal of target j of example k stands at that target, and nowhere else.
    unprefixed = next(make_train_iterator(settings, signals=reader)).signal.logits
    expected = np.zeros_like(host.signal.logits)
    for row, (prefix, count) in enumerate([(2, 2), (0, 3), (1, 1)]):
        expected[row, prefix : prefix + count] = unprefixed[row, :count]
    assert unprefixed.any()
    np.testing.assert_array_equal(host.signal.logits, expected)


def test_packed_rows_of_prefixes_by_hand(tmp_path):
    """A row has inputs + targets columns, for either: the first two examples fill seven of eight."""
    write_prefix_store(tmp_path)
    settings = config(
        tmp_path, "prefix", shuffle=False, batch_size=2, pack=True, num_epochs=1, feature_lengths=PREFIX_LENGTHS
    )
    [host] = make_train_iterator(settings, prompt="prefix")
    batch = host.batch
    assert batch.decoder_target_tokens.tolist() == [[5, 6, 7, 1, 8, 9, 1, 0], [4, 1, 0, 0, 0, 0, 0, 0]]
    assert batch.decoder_input_tokens.tolist() == [[0, 5, 6, 7, 0, 8, 9, 0], [0, 4, 0, 0, 0, 0, 0, 0]]
    assert batch.decoder_loss_weights.tolist() == [[0, 0, 1, 1, 1, 1, 1, 0], [0, 1, 0, 0, 0, 0, 0, 0]]
    assert batch.decoder_segment_ids.tolist() == [[1, 1, 1, 1, 2, 2, 2, 0], [1, 1, 0, 0, 0, 0, 0, 0]]
    assert batch.decoder_positions.tolist() == [[0, 1, 2, 3, 0, 1, 2, 0], [0, 1, 0, 0, 0, 0, 0, 0]]
    state = make_train_iterator(settings, prompt="prefix").get_state()
    with pytest.raises(UserError, match="of other data"):
        make_train_iterator(settings).set_state(state)


def test_a_store_without_inputs_has_no_encoder_fields(tmp_path):
    lm = recipe("lm", features={"targets": FEATURE}, feature_lengths={"targets": 4}, num_shards=1)
    write_store(tmp_path, lm, [Example("0", None, np.array([7, 8, 1], np.int32))])
    for pack in (False, True):
        settings = config(tmp_path, "lm", pack=pack, batch_size=2)
        batch = next(make_train_iterator(settings, prompt="prefix")).batch
        assert batch.encoder_input_tokens is None
        assert batch.encoder_segment_ids is None
        assert batch.decoder_input_tokens.tolist() == [[0, 7, 8, 0 if pack else 1]] * 2
        with pytest.raises(UserError, match="have no inputs for the model's encoder to read: use a decoder-only model"):
            make_train_iterator(settings)
