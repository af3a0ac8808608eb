"""Multi-head attention without biases, and without division by sqrt(head_dim): T5 folds that into its initialiser.

Shape letters: B rows, T queries, S keys, H heads, K size of a head, D width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from cat_jax.models.dropout import dropout
from cat_jax.models.initializers import Maker, normal
from cat_jax.models.layers import Linear

MASKED = -1e10
"""Logit of a key that may not be seen. Finite: a query that sees nothing gets a uniform average, not NaN."""


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
        query: [B, T, H, K].
        keys: [B, S, H, K].
        values: [B, S, H, K].
        bias: f32, broadcastable to [B, H, T, S], added to the logits.
        mask: bool, broadcastable to [B, H, T, S], true where a key may be seen.
        dropout_rate: probability with which an attention weight was dropped from `keep`.
        keep: bool[B, H, 1, S], the attention weights' dropout.

    Returns:
        [B, T, H, K] in the dtype of `values`.
    """
    logits = jnp.einsum("BTHK,BSHK->BHTS", query, keys, preferred_element_type=jnp.float32)
    if bias is not None:
        logits = logits + bias
    if mask is not None:
        logits = jnp.where(mask, logits, MASKED)
    weights = jax.nn.softmax(logits, axis=-1).astype(values.dtype)
    return jnp.einsum("BHTS,BSHK->BTHK", dropout(weights, dropout_rate, keep), values)


class Attention(nnx.Module):
    """Query, key, value and output projections around `attend`."""

    def __init__(self, make: Maker, width: int, num_heads: int, head_dim: int, dropout_rate: float):
        """Four kernels with T5's scales: variance 1 / fan-in, the query's smaller by head_dim."""
        shape, axes = (width, num_heads, head_dim), ("embed", "heads", "kv")
        self.dropout_rate = dropout_rate
        self.query = Linear(make, shape, axes, initializer=normal((width * head_dim) ** -0.5))
        self.key = Linear(make, shape, axes, initializer=normal(width**-0.5))
        self.value = Linear(make, shape, axes, initializer=normal(width**-0.5))
        self.output = Linear(
            make,
            (num_heads, head_dim, width),
            ("heads", "kv", "embed"),
            initializer=normal((num_heads * head_dim) ** -0.5),
            contract=2,
        )

    def keys_values(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values [B, S, H, K] of [B, S, D]."""
        return self.key(x), self.value(x)

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
        """[B, T, D] of queries made from `x` [B, T, D] looking at given keys and values [B, S, H, K]."""
        query, rate = self.query(x), self.dropout_rate
        return self.output(attend(query, keys, values, bias=bias, mask=mask, dropout_rate=rate, keep=keep))
