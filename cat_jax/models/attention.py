"""Multi-head attention without biases, and without division by sqrt(head_dim): T5 folds that into its initialiser.

Shape letters: B rows, T queries, S keys, H heads, K size of a head, D width.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from cat_jax.models import initializers
from cat_jax.models.dropout import dropout
from cat_jax.models.layers import Linear

MASKED = -1e10
"""Logit of a key that may not be seen. Finite, so that the softmax of a query that sees nothing is not NaN."""


def attend(
    query: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    *,
    bias: jax.Array | None,
    mask: jax.Array | None,
    dropout_rate: float = 0.0,
    keep: jax.Array | None = None,
) -> jax.Array:
    """Softmax attention; logits and softmax in f32 whatever the inputs' dtype.

    Args:
        query: [B, H, T, K].
        keys: [B, H, S, K].
        values: [B, H, S, K].
        bias: f32, broadcastable to [B, H, T, S], added to the logits.
        mask: bool, broadcastable to [B, H, T, S], true where a key may be seen.
        dropout_rate: probability with which an attention weight was dropped from `keep`.
        keep: bool[B, H, 1, S], the attention weights' dropout.

    Returns:
        [B, H, T, K] in the dtype of `values`; zero, without a gradient, for a query that may see no key.
    """
    logits = jnp.einsum("BHTK,BHSK->BHTS", query, keys, preferred_element_type=jnp.float32)
    if bias is not None:
        logits = logits + bias
    if mask is not None:
        logits = jnp.where(mask, logits, MASKED)
    weights = jax.nn.softmax(logits, axis=-1).astype(values.dtype)
    mixed = jnp.einsum("BHTS,BHSK->BHTK", dropout(weights, dropout_rate, keep), values)
    # Without this a query that sees nothing would average all of its row, and so depend on whom it is packed with.
    return mixed if mask is None else jnp.where(jnp.any(mask, axis=-1, keepdims=True), mixed, 0)


class Attention(nnx.Module):
    """Query, key, value and output projections around `attend`."""

    def __init__(
        self, key: jax.Array, width: int, num_heads: int, head_dim: int, dropout_rate: float, *, param_dtype: str
    ):
        """Draws the four kernels with T5's scales: variance 1 / fan-in, the query's smaller by head_dim."""
        query_key, key_key, value_key, output_key = jax.random.split(key, 4)
        shape, axes = (width, num_heads, head_dim), ("embed", "heads", "kv")
        small, plain = initializers.normal((width * head_dim) ** -0.5), initializers.normal(width**-0.5)
        self.dropout_rate = dropout_rate
        self.query = Linear(query_key, shape, axes, initializer=small, param_dtype=param_dtype)
        self.key = Linear(key_key, shape, axes, initializer=plain, param_dtype=param_dtype)
        self.value = Linear(value_key, shape, axes, initializer=plain, param_dtype=param_dtype)
        self.output = Linear(
            output_key,
            (num_heads, head_dim, width),
            ("heads", "kv", "embed"),
            initializer=initializers.normal((num_heads * head_dim) ** -0.5),
            contract=2,
            param_dtype=param_dtype,
        )

    def keys_values(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values [B, H, S, K] of [B, S, D]."""
        return _heads_first(self.key(x)), _heads_first(self.value(x))

    def __call__(
        self,
        x: jax.Array,
        keys: jax.Array,
        values: jax.Array,
        *,
        bias: jax.Array | None = None,
        mask: jax.Array | None = None,
        keep: jax.Array | None = None,
    ) -> jax.Array:
        """[B, T, D] of queries made from `x` [B, T, D] looking at given keys and values [B, H, S, K]."""
        query, rate = _heads_first(self.query(x)), self.dropout_rate
        mixed = attend(query, keys, values, bias=bias, mask=mask, dropout_rate=rate, keep=keep)
        return self.output(jnp.swapaxes(mixed, 1, 2))


def put_position(cache: jax.Array, new: jax.Array, index: jax.Array) -> jax.Array:
    """A cache [B, H, L, K] of keys or values with `new` [B, H, 1, K] at each row's own position, i32[B]."""
    return jax.vmap(functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=1))(cache, new, index)


def _heads_first(x: jax.Array) -> jax.Array:
    """[B, S, H, K] as [B, H, S, K]: as batched products want it, so that a cache need not be transposed every step."""
    return jnp.swapaxes(x, 1, 2)
