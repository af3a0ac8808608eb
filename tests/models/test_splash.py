"""The kernel for TPUs computes what the dense path does; elsewhere a model falls back on that."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoder_cases import INPUTS, TARGETS, batch_of, packed_batch, run, split, tiny_config
from flax import nnx

from cat_jax.models.grouped_attention import attend
from cat_jax.models.splash import splash_attend

LENGTH = 150  # no multiple of the kernel's blocks


@pytest.mark.parametrize(("window", "softcap"), [(None, None), (37, 5.0)])
def test_the_kernel_computes_what_the_dense_path_does(window, softcap):
    """Interpreted: values and gradients, with few heads of keys, two examples, a start that is nobody, and padding."""
    draw = np.random.default_rng(0).normal
    query, keys, values = (jnp.array(draw(size=(1, heads, LENGTH, 16)), jnp.float32) for heads in (4, 2, 2))
    columns = jnp.arange(LENGTH)
    examples = jnp.where(columns < 70, 1, jnp.where(columns < 140, 2, 0)).at[0].set(-1)[None]
    mask = (columns[:, None] >= columns) & (columns[:, None] - columns < (window or LENGTH))
    mask = (mask & (examples[:, :, None] == examples[:, None]))[:, None]
    options = {"scale": 0.25, "softcap": softcap}

    def dense(query, keys, values):
        return attend(query, [(keys, values, mask)], **options)

    def kernel(query, keys, values):
        return splash_attend(query, keys, values, examples, window=window, **options, interpret=True)

    def with_gradients(f):
        found, pull = jax.vjp(f, query, keys, values)
        return found, pull(jnp.cos(found))

    expected, found = jax.jit(lambda: (with_gradients(dense), with_gradients(kernel)))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, expected)


@pytest.mark.parametrize(
    "config", [tiny_config("gemma3", scan_layers=True, remat="minimal"), tiny_config("mistral", num_layers=1)]
)
def test_a_model_lowers_to_it_for_tpus_and_falls_back_elsewhere(config):
    """Layers of two kinds, of which one is chosen in the loop, and of one."""
    splash = dataclasses.replace(config, attention="splash")
    (graphdef, params), (dense, _) = split(splash), split(config)
    for batch in (batch_of(INPUTS, TARGETS), packed_batch([[0, 1], [2]], 24)):
        np.testing.assert_array_equal(run(graphdef, params, batch).hidden, run(dense, params, batch).hidden)

    def loss(params):
        return jnp.sum(nnx.merge(graphdef, params)(batch).hidden)

    text = jax.jit(jax.grad(loss)).trace(params).lower(lowering_platforms=("tpu",)).as_text()
    assert "tpu_custom_call" in text
    assert "tpu_custom_call" not in jax.jit(loss).lower(params).as_text()
