"""T5's relative position bias: one learned number per head and bucket of distances, shared by a stack's layers."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cat_jax.models import initializers
from cat_jax.models.axes import parameter


def relative_buckets(distances: np.ndarray, *, bidirectional: bool, num_buckets: int, max_distance: int) -> np.ndarray:
    """The bucket of each distance, key position minus query position.

    Half of the buckets (of each direction, if bidirectional) hold one distance each; the others grow
    logarithmically up to `max_distance`, and the last one holds all that is farther. Without `bidirectional`,
    keys after the query fall into bucket 0.

    Args:
        distances: integers of any shape. NumPy, not traced: the f32 logarithm decides on which side of an edge a
            distance falls, and must not depend on the device.
        bidirectional: whether keys after the query have buckets of their own.
        num_buckets: how many buckets in all.
        max_distance: the distance from which on all share a bucket.

    Returns:
        i32 buckets in [0, num_buckets), in the shape of `distances`.
    """
    offset = np.zeros_like(distances)
    if bidirectional:
        num_buckets //= 2
        offset = np.where(distances > 0, num_buckets, 0)
        back = np.abs(distances)
    else:
        back = np.maximum(-distances, 0)
    exact = num_buckets // 2
    ratio = np.log(np.maximum(back, 1).astype(np.float32) / np.float32(exact)) / np.float32(
        np.log(max_distance / exact)
    )
    far = exact + (ratio * np.float32(num_buckets - exact)).astype(np.int32)
    return (offset + np.where(back < exact, back, np.minimum(far, num_buckets - 1))).astype(np.int32)


class RelativeBias(nnx.Module):
    """The bias added to attention logits, f32[H, T, S]."""

    def __init__(
        self,
        key: jax.Array,
        num_heads: int,
        *,
        num_buckets: int,
        max_distance: int,
        bidirectional: bool,
        param_dtype: str,
    ):
        """Draws the table from a uniform of variance 2 / (num_heads + num_buckets), as t5x does."""
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self.bidirectional = bidirectional
        bound = (6.0 / (num_heads + num_buckets)) ** 0.5
        table = initializers.uniform(bound)(key, (num_heads, num_buckets), param_dtype)
        self.table = parameter(table, ("heads", "relpos_buckets"))

    def __call__(self, num_queries: int, num_keys: int) -> jax.Array:
        """The bias of queries 0..T-1 on keys 0..S-1, f32[H, T, S].

        Only T+S-1 distances exist, so only those are looked up; the matrix repeats them along its diagonals.
        """
        by_distance = self._by_distance(1 - num_queries, num_keys - 1)  # [H, T+S-1], from -(T-1) to S-1
        period = num_queries + num_keys
        # Rows of a Toeplitz matrix: a sequence of period n read n-1 at a time moves by one every row.
        flat = jnp.tile(jnp.pad(by_distance, ((0, 0), (0, 1))), (1, num_queries))
        rows = flat[:, : num_queries * (period - 1)].reshape(-1, num_queries, period - 1)
        return rows[:, :, num_queries - 1 :]

    def rows(self, queries: jax.Array, num_keys: int) -> jax.Array:
        """The bias of one query position a row, i32[B] (traced), on keys 0..S-1: f32[B, H, S]; 0 <= query < S."""
        by_distance = self._by_distance(1 - num_keys, num_keys - 1)
        slices = functools.partial(jax.lax.dynamic_slice_in_dim, by_distance, slice_size=num_keys, axis=1)
        return jax.vmap(slices)(num_keys - 1 - queries)

    def _by_distance(self, first: int, last: int) -> jax.Array:
        buckets = relative_buckets(
            np.arange(first, last + 1),
            bidirectional=self.bidirectional,
            num_buckets=self.num_buckets,
            max_distance=self.max_distance,
        )
        return self.table[...].astype(jnp.float32)[:, buckets]
