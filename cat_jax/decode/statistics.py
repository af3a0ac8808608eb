"""What the logits say about a token: the numbers that every confidence rule is made of."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TokenStatistics:
    """Of each token in nats, all of one shape [...]; f32 whatever the model computes in."""

    logprobs: jax.Array  # log-probability of the token itself
    entropies: jax.Array  # entropy of the distribution it was taken from
    margins: jax.Array  # log-probability of the best minus the second best token; 0 at a tie


def best_tokens(logits: jax.Array) -> jax.Array:
    """i32[...]: the id of the largest of logits [..., V]; of equal ones the lowest id (the one rule of cat-jax)."""
    # Equals jnp.argmax, whose two-valued reduction is 6 times slower on CPU; without a largest one (NaN), the last id.
    ids = jnp.arange(logits.shape[-1], dtype=jnp.int32)
    largest = jnp.max(logits, axis=-1, keepdims=True)
    return jnp.min(jnp.where(logits == largest, ids, logits.shape[-1] - 1), axis=-1)


def token_statistics(logits: jax.Array, tokens: jax.Array) -> TokenStatistics:
    """Statistics of `tokens` i32[...] under logits [..., V] (-inf where a column is padding), in at least f32."""
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    shifted = logits - jnp.max(logits, axis=-1, keepdims=True)
    weights = jnp.exp(shifted)
    total = jnp.sum(weights, axis=-1)
    log_total = jnp.log(total)
    chosen = jnp.take_along_axis(shifted, tokens[..., None], axis=-1)[..., 0]
    # A masked column has weight 0 and shifted -inf: its term is 0, not NaN.
    expected = jnp.sum(weights * jnp.where(weights > 0, shifted, 0), axis=-1) / total
    is_best = jnp.arange(logits.shape[-1], dtype=jnp.int32) == best_tokens(logits)[..., None]
    second = jnp.max(jnp.where(is_best, -jnp.inf, shifted), axis=-1)
    return TokenStatistics(logprobs=chosen - log_total, entropies=log_total - expected, margins=-second)
