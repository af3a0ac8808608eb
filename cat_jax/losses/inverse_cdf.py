"""Draws by inverting a cumulative distribution: the same ids from the same numbers, whatever the batch."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from cat_jax.types import Array

_BLOCK = 128
_BELOW_ONE = 1.0 - 2.0**-23


def key_uniforms(keys: Array) -> Array:
    """f32[...] in [0, 1) from folded keys [...].

    A folded key is itself the generator's output; jax.random.uniform would depend on jax_threefry_partitionable.
    """
    return (jax.random.key_data(keys)[..., 0] >> 8) * jnp.float32(2**-24)


@dataclasses.dataclass(frozen=True)
class CumulativeWeights:
    """Cumulated weights of N distributions over V ids, in two levels: C blocks of ids, and the ids of a block.

    Two levels instead of one cumulative sum over the vocabulary: cheaper, and the rounding errors stay small.
    """

    blocks: Array  # f32[N, C, _BLOCK], 0 beyond the vocabulary
    sums: Array  # f32[N, C]
    ends: Array  # f32[N, C]: cumulated sums

    @staticmethod
    def of(weights: Array) -> CumulativeWeights:
        """From weights f32[N, V] >= 0, not necessarily normalised."""
        blocks = jnp.pad(weights, ((0, 0), (0, -weights.shape[-1] % _BLOCK))).reshape(len(weights), -1, _BLOCK)
        sums = jnp.sum(blocks, axis=-1)
        return CumulativeWeights(blocks, sums, jnp.cumsum(sums, axis=-1))

    @property
    def totals(self) -> Array:
        """f32[N, 1]: all weights together."""
        return self.ends[:, -1:]

    def ids_at(self, points: Array) -> Array:
        """i32[N, K]: the id in whose share of the cumulated weights each point f32[N, K] falls.

        Never one of weight 0, but where there is no weight at all: 0 there. A point that is not below the total counts
        as just below it.
        """
        points = jnp.minimum(points, self.totals * _BELOW_ONE)
        block = _place(self.sums[:, None], self.ends[:, None], points)
        begins = jnp.concatenate([jnp.zeros_like(self.totals), self.ends[:, :-1]], axis=-1)
        rest = points - jnp.take_along_axis(begins, block, axis=-1)
        within = self.blocks  # of a small vocabulary there is one, which every point would copy and cumulate
        if within.shape[1] > 1:
            within = jnp.take_along_axis(within, block[:, :, None], axis=1)
        ends = jnp.cumsum(within, axis=-1)
        rest = jnp.clip(rest, 0.0, ends[:, :, -1] * _BELOW_ONE)
        return block * _BLOCK + _place(within, ends, rest)


def _place(weights: Array, ends: Array, points: Array) -> Array:
    """i32[N, K]: after as many places as end at or before the point, the first that has a weight; else the last.

    `weights` [N, K or 1, P] and `ends`, cumulated and rounded: these may step up where nothing is, and down, so that
    counting ends alone may stop where no weight is.
    """
    places = jnp.arange(weights.shape[-1], dtype=jnp.int32)
    passed = jnp.sum(ends <= points[..., None], axis=-1, dtype=jnp.int32)
    has_weight = weights > 0
    first = jnp.min(jnp.where(has_weight & (places >= passed[..., None]), places, places.size), axis=-1)
    last = jnp.max(jnp.where(has_weight, places, 0), axis=-1)
    return jnp.where(first < places.size, first, last)
