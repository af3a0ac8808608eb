"""Decoding with a cache equals the teacher-forced pass."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from t5_cases import random_batch, run, split, tiny_config

CONFIGS = {
    "unrolled": tiny_config(),
    "scanned": tiny_config(scan_layers=True, remat="full"),
    "tied": tiny_config(tie_embeddings=True, activations=("relu",), relative_buckets=8, relative_max_distance=5),
}


@pytest.mark.parametrize(
    "name", ["scanned", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("tied", "unrolled"))]
)
def test_prefill_and_step_give_the_teacher_forced_hidden_states(name):
    graphdef, params = split(CONFIGS[name])
    model = nnx.merge(graphdef, params)
    batch = random_batch(2)
    expected = run(graphdef, params, batch).hidden
    cache, hidden = jax.jit(model.prefill, static_argnums=1)(batch, 10)
    step = jax.jit(model.step)
    states = [hidden]
    for t in range(1, expected.shape[1]):
        cache, hidden = step(batch.decoder_input_tokens[:, t], cache)
        states.append(hidden)
    np.testing.assert_allclose(jnp.stack(states, 1), expected, atol=5e-6)


def test_the_head_is_that_of_the_forward_pass():
    for config in (CONFIGS["unrolled"], CONFIGS["tied"]):
        graphdef, params = split(config)
        output = run(graphdef, params, random_batch())
        np.testing.assert_array_equal(nnx.merge(graphdef, params).head().kernel, output.head.kernel)
        assert output.head.vocab_size == config.vocab_size


def test_every_array_of_the_cache_has_the_batch_first():
    """So that rows can be gathered, dropped or sharded without knowing the family."""
    graphdef, params = split(tiny_config(dtype="bfloat16"))
    cache, hidden = jax.jit(lambda p, b: nnx.merge(graphdef, p).prefill(b, 5))(params, random_batch())
    assert hidden.shape == (3, 16)
    assert {x.shape[0] for x in jax.tree.leaves(cache)} == {3}
    assert {x.dtype for x in jax.tree.leaves(cache.layers)} == {jnp.dtype("bfloat16")}
    assert cache.index.tolist() == [1, 1, 1]


def test_rows_of_the_cache_can_be_reordered():
    """As beam search does."""
    graphdef, params = split(tiny_config())
    model = nnx.merge(graphdef, params)
    batch = random_batch()
    order = jnp.array([2, 0, 0])
    step = jax.jit(model.step)
    cache, _ = jax.jit(model.prefill, static_argnums=1)(batch, 4)
    cache, _ = step(jnp.array([3, 4, 5]), cache)
    _, expected = step(jnp.array([6, 7, 8]), cache)
    _, found = step(jnp.array([6, 7, 8])[order], jax.tree.map(lambda x: x[order], cache))
    np.testing.assert_allclose(found, expected[order], atol=1e-6)


def test_rows_of_different_lengths_are_decoded_side_by_side():
    """As when a finished row is refilled: one of another cache, which is three tokens behind, takes its place."""
    graphdef, params = split(tiny_config())
    model = nnx.merge(graphdef, params)
    batch = random_batch()
    step = jax.jit(model.step)
    young, _ = jax.jit(model.prefill, static_argnums=1)(batch, 7)
    old = young
    for t in (1, 2, 3):
        old, _ = step(batch.decoder_input_tokens[:, t], old)
    mixed = jax.tree.map(lambda o, y: o.at[1].set(y[0]), old, young)
    row, expected = jnp.array([0, 0, 2]), run(graphdef, params, batch).hidden
    for t in range(3):
        at = jnp.array([4, 1, 4]) + t
        mixed, found = step(batch.decoder_input_tokens[row, at], mixed)
        # Row 2 has five targets: what comes after them is padding to both.
        np.testing.assert_allclose(found, expected[jnp.array([0, 0, 2]), at], atol=5e-6)
    assert mixed.index.tolist() == [7, 4, 7]


def test_packed_rows_are_refused():
    model = nnx.merge(*split(tiny_config()))
    segments = {"encoder_segment_ids": jnp.ones((3, 9), jnp.int32), "decoder_segment_ids": jnp.ones((3, 9), jnp.int32)}
    batch = dataclasses.replace(random_batch(), **segments)
    with pytest.raises(ValueError, match="packed"):
        model.prefill(batch, 4)
