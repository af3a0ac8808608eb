"""What a decoder-only model reads off a batch: where examples begin, at which positions, and who may see whom.

Shape letters: B rows, T columns.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from cat_jax.models import masks
from cat_jax.types import Batch


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of a batch, packed or not.

    A column sees columns of its own number in `examples` alone, and so at least itself: no softmax is over nothing. The
    start of an example that has no token there has a number of its own, and is seen by no other.
    """

    tokens: jax.Array  # i32[B, T]: the ids that are embedded
    positions: jax.Array  # i32[B, T], or [1, T]: from 0 in each example
    examples: jax.Array | None  # i32[B, T]; None where a row is one example, and padding only follows it
    prefix: jax.Array | None  # bool[B, T]: the inputs, where they see each other

    def mask(self, window: int | None) -> jax.Array:
        """Who sees whom, as in `models.masks`, of layers that see all of an example or `window` tokens of it."""
        length = self.tokens.shape[1]
        mask = masks.causal_mask(length)
        if self.prefix is not None:
            mask |= masks.prefix_mask(self.prefix)
        if window is not None and window < length:
            mask &= masks.window_mask(length, window)
        return mask if self.examples is None else mask & masks.segment_mask(self.examples, self.examples)


def read_rows(batch: Batch, bos_id: int | None, *, prefix_lm: bool) -> Rows:
    """The rows of a batch of the form "prefix".

    Args:
        batch: whose examples begin with id 0: packed, single (padded on the right), or prompts.
        bos_id: the id to embed where an example begins; None leaves that column out.
        prefix_lm: whether inputs see each other in both directions.

    Raises:
        ValueError: the batch is of another form.
    """
    if batch.encoder_input_tokens is not None:
        raise ValueError("a decoder-only model reads inputs before the targets, and the batch has them for an encoder")
    tokens, examples, positions = batch.decoder_input_tokens, batch.decoder_segment_ids, batch.decoder_positions
    columns = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    if examples is None:
        positions, starts = columns, columns == 0
    elif positions is None:
        raise ValueError("the batch has segment ids and no positions")
    else:
        starts = (positions == 0) & (examples > 0)
    prefix = _prefix(batch, starts) if prefix_lm else None
    if bos_id is not None:
        return Rows(jnp.where(starts, bos_id, tokens), positions, examples, prefix)
    alone = jnp.where(starts, -1 - columns, 1 if examples is None else examples)
    if prefix is not None:
        prefix &= ~starts
    return Rows(tokens, jnp.maximum(positions - 1, 0), jnp.broadcast_to(alone, tokens.shape), prefix)


def _prefix(batch: Batch, starts: jax.Array) -> jax.Array:
    """bool[B, T]: columns of an example up to its last input: those before which no target of it counts."""
    tokens = batch.decoder_input_tokens
    columns = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    counted = jnp.where(batch.decoder_loss_weights > 0, columns, -1)
    last_counted = jnp.pad(jax.lax.cummax(counted, axis=1), [(0, 0), (1, 0)], constant_values=-1)[:, :-1]
    first = jax.lax.cummax(jnp.broadcast_to(jnp.where(starts, columns, -1), tokens.shape), axis=1)
    here = (tokens > 0) | starts if batch.decoder_segment_ids is None else batch.decoder_segment_ids > 0
    return (last_counted < first) & here
