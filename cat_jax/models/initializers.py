"""Initialisers of T5 1.1, as functions of a key and a shape.

They are those of Mesh TensorFlow's T5 1.1 and of t5x's minimal T5: the attention logits are not divided by
sqrt(head_dim), so the query kernel starts smaller by that factor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

Initializer = Callable[[jax.Array, Sequence[int], str], jax.Array]

_TRUNCATED_STDDEV = 0.87962566103423978
"""Standard deviation of a unit normal cut at two standard deviations."""

_FLAT = 2**26
"""Up to how many numbers are drawn flat; see `_draw`."""


def normal(stddev: float) -> Initializer:
    """A normal distribution of the given standard deviation."""

    def initialize(key, shape, dtype):
        return (_draw(jax.random.normal, key, shape) * stddev).astype(dtype)

    return initialize


def truncated_normal(stddev: float) -> Initializer:
    """A normal distribution cut at two sigma, scaled to have the given standard deviation after the cut."""

    def initialize(key, shape, dtype):
        draws = _draw(lambda key, shape: jax.random.truncated_normal(key, -2.0, 2.0, shape), key, shape)
        return (draws * (stddev / _TRUNCATED_STDDEV)).astype(dtype)

    return initialize


def uniform(bound: float) -> Initializer:
    """The uniform distribution on [-bound, bound)."""

    def initialize(key, shape, dtype):
        draws = _draw(lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -bound, bound), key, shape)
        return draws.astype(dtype)

    return initialize


def padded(initializer: Initializer, axis: int, size: int) -> Initializer:
    """Draws the first `size` of `axis` and leaves the rest zero: how much there is of it does not change the draw."""

    def initialize(key, shape, dtype):
        drawn = initializer(key, (*shape[:axis], size, *shape[axis + 1 :]), dtype)
        return jnp.pad(drawn, [(0, whole - part) for whole, part in zip(shape, drawn.shape, strict=True)])

    return initialize


def ones(key: jax.Array, shape: Sequence[int], dtype: str) -> jax.Array:
    """All ones; the key is not used."""
    del key
    return jnp.ones(shape, dtype)


def _draw(draw: Callable[[jax.Array, Sequence[int]], jax.Array], key: jax.Array, shape: Sequence[int]) -> jax.Array:
    """`draw(key, shape)`, drawn flat if it is small.

    Both ways give the same numbers (a test holds that). XLA:CPU compiles the flat draw several times as fast; only the
    other can be made shard by shard, so that no device holds all of a large parameter.
    """
    size = math.prod(shape)
    return draw(key, (size,)).reshape(shape) if size <= _FLAT else draw(key, shape)
