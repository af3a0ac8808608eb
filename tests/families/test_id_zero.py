"""Where id 0 is a token, lengths say what is padding: in training, teaching and decoding, for either kind of prompt."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cat_jax.data.loader import DatasetConfig, make_train_iterator
from cat_jax.data.manifest import FeatureInfo, Recipe
from cat_jax.data.record import Example
from cat_jax.data.store import ExampleStore
from cat_jax.data.writer import write_store
from cat_jax.decode.greedy import greedy
from cat_jax.evaluate.prompts import prompt_batch, read_inputs
from cat_jax.models.decoder_config import DecoderConfig
from cat_jax.models.t5_config import T5Config
from cat_jax.train.step import _input_tokens
from cat_jax.types import Batch

VOCAB, TWIN = 9, 8
"""`TWIN` is embedded as 0 is, and no example has it."""

LENGTHS = {"inputs": 5, "targets": 4}
FEATURE = FeatureInfo("v", VOCAB, 0, True, zero_is_token=True)
ROWS = [([4, 0], [0, 6, 0]), ([0, 0], [0, 0, 0]), ([0, 5], [3, 2, 0])]
"""Zeros at the beginning, in the middle and at the end, which is also what ends a target; of one shape, for speed."""

FAMILIES = {
    "encoder": T5Config(
        vocab_size=VOCAB, embed_dim=8, num_heads=2, head_dim=4, mlp_dim=8, num_encoder_layers=1, num_decoder_layers=1
    ),
    "prefix": DecoderConfig(
        vocab_size=VOCAB, embed_dim=8, num_heads=2, head_dim=4, mlp_dim=8, num_layers=2, prefix_lm=True
    ),
}


@pytest.fixture(scope="module", params=FAMILIES)
def world(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("zero")
    recipe = Recipe("zero", "train", {"inputs": FEATURE, "targets": FEATURE}, LENGTHS, 1, False)
    arrays = [[np.array(side, np.int32) for side in row] for row in ROWS]
    write_store(root, recipe, [Example(str(k), *row) for k, row in enumerate(arrays)])
    model = FAMILIES[request.param].build(jax.random.key(1))
    table = model.embedding.table
    table[...] = table[...].at[TWIN].set(table[0])
    expected = [np.asarray(alone(model, request.param, *row)) for row in arrays]
    return types.SimpleNamespace(
        root=root,
        store=ExampleStore.open(root, "zero", "train"),
        model=model,
        prompt=request.param,
        expected=expected,
    )


@nnx.jit
def hidden_of(model, batch):
    return model(batch).hidden


def alone(model, prompt, inputs, targets):
    """Hidden states [T, D] of an example in arrays of its own lengths, `TWIN` for 0: nothing looks like padding."""
    inputs, targets = (np.where(ids == 0, TWIN, ids) for ids in (inputs, targets))
    before = inputs if prompt == "prefix" else inputs[:0]
    tokens = np.concatenate([before, targets])[None]
    batch = Batch(
        decoder_target_tokens=tokens,
        decoder_input_tokens=np.pad(tokens, [(0, 0), (1, 0)])[:, :-1],
        decoder_loss_weights=(np.arange(tokens.shape[1]) >= len(before)).astype(np.float32)[None],
        encoder_input_tokens=inputs[None] if prompt == "encoder" else None,
    )
    return hidden_of(model, batch)[0, len(before) :]


@pytest.mark.parametrize("pack", [False, True])
def test_zeros_are_seen_and_count(world, pack):
    settings = DatasetConfig(
        str(world.root), "zero", "train", LENGTHS, batch_size=4, pack=pack, shuffle=False, num_epochs=1, prefetch=0
    )
    [host] = make_train_iterator(settings, prompt=world.prompt)
    batch = host.batch
    assert batch.decoder_loss_weights.sum() == sum(len(targets) for _, targets in ROWS)
    assert float(_input_tokens(jax.tree.map(jnp.asarray, batch))) == sum(len(inputs) for inputs, _ in ROWS)
    found = np.asarray(hidden_of(world.model, batch))[batch.decoder_loss_weights > 0]
    np.testing.assert_allclose(found, np.concatenate(world.expected), atol=1e-5)
    counted = batch.decoder_target_tokens[batch.decoder_loss_weights > 0]
    assert counted.tolist() == [i for _, targets in ROWS for i in targets]


def test_prompts_end_where_their_lengths_say(world):
    arrays = read_inputs(world.store, np.array([2, -1, 0, 1]), 5)
    assert arrays["input_lengths"].tolist() == [2, 0, 2, 2]
    batch = prompt_batch(jnp.asarray(arrays["inputs"]), world.prompt, jnp.asarray(arrays["input_lengths"]))
    _, hidden = nnx.jit(lambda model, batch: model.prefill(batch, 3))(world.model, batch)
    for row, example in ((0, 2), (2, 0), (3, 1)):
        np.testing.assert_allclose(hidden[row], world.expected[example][0], atol=1e-5)


def test_a_row_ends_with_its_end_of_sequence_though_that_is_zero(world):
    """Against a loop that reads everything anew at each step."""
    arrays = read_inputs(world.store, np.arange(3), 5)
    batch = prompt_batch(jnp.asarray(arrays["inputs"]), world.prompt, jnp.asarray(arrays["input_lengths"]))
    decoded = nnx.jit(lambda model, batch: greedy(model, batch, max_decode_length=3, eos_id=0))(world.model, batch)
    for row, (inputs, _) in enumerate(ROWS):
        written = []
        while len(written) < 3 and 0 not in written:
            targets = np.array([*written, 1, 1, 1][:3], np.int32)  # what comes later is not seen
            hidden = alone(world.model, world.prompt, np.array(inputs, np.int32), targets)[len(written)]
            written.append(int(np.argmax(world.model.head().logits(hidden))))
        assert decoded.tokens[row, : decoded.lengths[row]].tolist() == written
