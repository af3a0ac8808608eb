"""Attention masks: bool[B, 1, T, S] (or broadcastable to it), true where a query may look at a key.

Rows either have segment ids on every side, as when they are packed, or hold one example and have none. A query at
padding may look at anything: what it computes is never read. A query that may look at nothing (its example has no
inputs) gets zero.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def padding_mask(tokens: jax.Array) -> jax.Array:
    """Keys that are not padding, bool[B, 1, 1, S] from ids, or segment ids, i32[B, S] with 0 for padding."""
    return (tokens > 0)[:, None, None, :]


def segment_mask(query_segments: jax.Array, key_segments: jax.Array) -> jax.Array:
    """Keys of the query's own segment, bool[B, 1, T, S] from segment ids i32[B, T] and i32[B, S]."""
    return (query_segments[:, :, None] == key_segments[:, None, :])[:, None]


def causal_mask(length: int) -> jax.Array:
    """Keys at or before the query, bool[1, 1, T, T]."""
    return jnp.tril(jnp.ones((length, length), bool))[None, None]


def window_mask(length: int, window: int) -> jax.Array:
    """Keys less than `window` columns away on either side, bool[1, 1, T, T]."""
    columns = jnp.arange(length)
    return (jnp.abs(columns[:, None] - columns) < window)[None, None]


def prefix_mask(prefix: jax.Array) -> jax.Array:
    """Keys of the prefix for queries of the prefix, bool[B, 1, T, T] from bool[B, T]."""
    return (prefix[:, :, None] & prefix[:, None, :])[:, None]
