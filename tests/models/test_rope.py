"""Rotary positions by their properties; frequencies and whole models are compared in test_decoder_parity.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoder_cases import tiny_config

from cat_jax.models.rope import rope_frequencies, rotation

PLAIN = {"rope_scaling": "none", "rope_factor": 1, "rope_original_length": None}


@jax.jit
def turned(x, positions):
    """[T, K] at positions i32[T], of a head of eight."""
    return rotation(tiny_config(rope_theta=100, **PLAIN), positions[None], local=False)(x[None, :, None])[0, :, 0]


def test_a_rotation_by_hand():
    """Pairs are i and i + 4; the first turns by the position, the last by 100 ** -0.75 of it."""
    x = np.zeros((1, 8), np.float32)
    x[0, 0], x[0, 7] = 2.0, 3.0
    found = turned(x, jnp.array([5]))[0]
    slow = 5 * 100**-0.75
    expected = [2 * np.cos(5), 0, 0, -3 * np.sin(slow), 2 * np.sin(5), 0, 0, 3 * np.cos(slow)]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_product_depends_on_the_distance_alone():
    query, key = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    rows = lambda x: np.tile(x, (4, 1))  # noqa: E731
    near = turned(rows(query), jnp.array([3, 10, 500, 0])) * turned(rows(key), jnp.array([1, 8, 498, 2]))
    products = np.array(near).sum(axis=1)
    np.testing.assert_allclose(products[:3], products[0], atol=1e-4)
    assert abs(products[3] - products[0]) > 0.1  # backwards it is another


def test_a_part_of_a_head_is_rotated_as_a_smaller_head():
    part, small = tiny_config(rotary_fraction=0.5, **PLAIN), tiny_config(head_dim=4, **PLAIN)
    x, positions = jnp.array(np.random.default_rng(1).normal(size=(1, 3, 2, 8)), jnp.bfloat16), jnp.arange(3)[None]
    found = rotation(part, positions, local=False)(x)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found[..., :4], rotation(small, positions, local=False)(x[..., :4]))
    np.testing.assert_array_equal(found[..., 4:], x[..., 4:])


def test_yarn_s_factor_may_be_given():
    config = tiny_config("qwen3", rope_attention_factor=1.5)
    assert rope_frequencies(config, local=False)[1] == 1.5
    assert rope_frequencies(tiny_config("qwen3"), local=False)[1] == pytest.approx(0.1 * np.log(4) + 1)
