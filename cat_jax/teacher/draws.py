"""Unbiased draws from the tail of a distribution, the same bytes whatever the batch that a position rides in."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cat_jax.losses.inverse_cdf import CumulativeWeights, key_uniforms


def position_uniforms(
    seed: jax.typing.ArrayLike, shard: jax.typing.ArrayLike, indices: jax.Array, positions: jax.Array
) -> jax.Array:
    """One uniform number in [0, 1) for each target position, keyed by what names the position and nothing else.

    Args:
      seed: u32[]: the signal's seed.
      shard: u32[]: the store's shard.
      indices: u32[B]: the records' indices in the shard.
      positions: i32[B, T]: the targets' positions in their records.

    Returns:
      f32[B, T].
    """
    key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), shard)
    rows = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
    cells = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)))(rows, positions.astype(jnp.uint32))
    return key_uniforms(cells)


def tail_draws(tail: jax.Array, uniforms: jax.Array, num_draws: int, counts: jax.Array | None = None) -> jax.Array:
    """Ids drawn in proportion to `tail`: the expected count of id v is count * tail[v] / sum(tail).

    The draws of a position are systematic: one uniform number sets a comb of `count` equally spaced points in the
    cumulated tail. Each point alone is a draw with replacement, so any weighted sum over draws is unbiased; together
    they cover the tail evenly, so that the sum varies less than with independent draws.

    Args:
      tail: f32[N, V] weights >= 0, not necessarily normalised; ids with weight 0 are never drawn.
      uniforms: f32[N] in [0, 1).
      num_draws: places for draws.
      counts: i32[N]: draws of each position, from 0 to `num_draws`; None for `num_draws`.

    Returns:
      i32[N, num_draws], ascending; 0 beyond the position's draws, and where the tail has no mass.
    """
    cumulative = CumulativeWeights.of(tail)
    total = cumulative.totals
    places = jnp.arange(num_draws)
    points = (places + uniforms[:, None]) / (num_draws if counts is None else jnp.maximum(counts, 1)[:, None]) * total
    drawn = total > 0 if counts is None else (total > 0) & (places < counts[:, None])
    return jnp.where(drawn, cumulative.ids_at(points), 0)
