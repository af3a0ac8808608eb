"""The jitted step of teaching: a batch in, what the layout keeps of each target position out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from cat_jax.parallel.activations import rows_over
from cat_jax.parallel.batches import ALL_AXES, batch_sharding, num_row_shards
from cat_jax.teacher.draws import position_uniforms
from cat_jax.teacher.finite import finite
from cat_jax.teacher.layout import SignalLayout
from cat_jax.types import Batch, Head

LOGIT_BYTES = 1 << 25
"""Logits of about this many bytes exist at a time on each device."""

Step = Callable[[Any, Batch, jax.typing.ArrayLike, jax.typing.ArrayLike, jax.Array], dict[str, jax.Array]]


@functools.lru_cache(maxsize=8)  # teaching another task with the same teacher compiles nothing anew
def make_step(graphdef: Any, layout: SignalLayout, mesh: Mesh) -> Step:
    """A jitted function (params, batch, seed u32[], shard u32[], indices u32[B]) -> fields [B, T, ...].

    The fields are those of `layout.encode` and "finite": whether the teacher's numbers are. `indices` are those of
    the rows' examples in the shard. Each device computes its own rows with parameters that are gathered where they are
    used: a program of the same shapes whatever the mesh.
    """
    shards = num_row_shards(mesh, ALL_AXES)

    def step(
        params: Any, batch: Batch, seed: jax.typing.ArrayLike, shard: jax.typing.ArrayLike, indices: jax.Array
    ) -> dict[str, jax.Array]:
        with rows_over(mesh, ALL_AXES):
            output = nnx.merge(graphdef, params)(batch)
        places = jnp.cumsum(batch.decoder_loss_weights > 0, axis=-1) - 1  # a prompt before the targets does not count
        uniforms = position_uniforms(seed, shard, indices, places)
        fields = _encode(layout, output.head, shards, output.hidden, batch.decoder_target_tokens, uniforms)
        return {**fields, "finite": finite(output)}

    return jax.jit(step, out_shardings=batch_sharding(mesh, ALL_AXES))


def _encode(
    layout: SignalLayout, head: Head, shards: int, hidden: jax.Array, targets: jax.Array, uniforms: jax.Array
) -> dict[str, jax.Array]:
    """The fields of every position, a few rows of each device at a time: the logits never exist all at once."""
    batch, length = targets.shape
    rows = batch // shards
    chunk = _chunk_rows(rows, length * head.kernel.shape[-1] * 4)

    def split(x: jax.Array) -> jax.Array:  # [B, ...] -> [chunks, shards, rows of a chunk, ...]
        return jnp.moveaxis(x.reshape(shards, rows // chunk, chunk, *x.shape[1:]), 1, 0)

    def join(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x, 0, 1).reshape(batch, *x.shape[3:])

    def one(part: tuple[jax.Array, jax.Array, jax.Array]) -> dict[str, jax.Array]:
        hidden, targets, uniforms = part
        logits = head.logits(hidden.reshape(-1, hidden.shape[-1]))
        fields = layout.encode(logits, targets.reshape(-1), uniforms.reshape(-1))
        return {name: x.reshape(*targets.shape, *x.shape[1:]) for name, x in fields.items()}

    parts = split(hidden), split(targets), split(uniforms)
    return {name: join(x) for name, x in jax.lax.map(one, parts).items()}


def _chunk_rows(rows: int, bytes_per_row: int) -> int:
    """The largest divisor of `rows` whose logits stay within `LOGIT_BYTES`, at least one row."""
    return max(n for n in range(1, rows + 1) if rows % n == 0 and (n == 1 or n * bytes_per_row <= LOGIT_BYTES))
