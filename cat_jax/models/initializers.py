"""Initialisers of T5 1.1, as functions of a key and a shape.

They are those of Mesh TensorFlow's T5 1.1 and of t5x's minimal T5: the attention logits are not divided by
sqrt(head_dim), so the query kernel starts smaller by that factor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

Initializer = Callable[[jax.Array, Sequence[int], str], jax.Array]

_TRUNCATED_STDDEV = 0.87962566103423978
"""Standard deviation of a unit normal cut at two standard deviations."""


def normal(stddev: float) -> Initializer:
    """A normal distribution of the given standard deviation."""

    def initialize(key, shape, dtype):
        return (jax.random.normal(key, shape, jnp.float32) * stddev).astype(dtype)

    return initialize


def truncated_normal(stddev: float) -> Initializer:
    """A normal distribution cut at two sigma, scaled to have the given standard deviation after the cut."""

    def initialize(key, shape, dtype):
        draws = jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32)
        return (draws * (stddev / _TRUNCATED_STDDEV)).astype(dtype)

    return initialize


def uniform(bound: float) -> Initializer:
    """The uniform distribution on [-bound, bound)."""

    def initialize(key, shape, dtype):
        return jax.random.uniform(key, shape, jnp.float32, -bound, bound).astype(dtype)

    return initialize


def ones(key: jax.Array, shape: Sequence[int], dtype: str) -> jax.Array:
    """All ones; the key is not used."""
    del key
    return jnp.ones(shape, dtype)
