"""Activations stay split by rows of the batch: said once per layer, so that the compiler moves parameters instead.

Left alone, XLA may hand the axis `fsdp` from the rows of a batch over to the embedding, because parameters are split
along it there: it then gathers every activation on all devices of that axis. With activations pinned to their rows it
gathers each layer's parameters just before they are used, and sums gradients back to where parameters lie.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cat_jax.parallel.batches import ROW_AXES, num_row_shards

_MESH: contextvars.ContextVar[Mesh | None] = contextvars.ContextVar("mesh_of_activations", default=None)


@contextlib.contextmanager
def rows_over(mesh: Mesh) -> Iterator[None]:
    """Models that are traced inside keep their activations split by rows over `mesh`. Enter it inside jit."""
    token = _MESH.set(mesh)
    try:
        yield
    finally:
        _MESH.reset(token)


def by_rows(x: jax.Array) -> jax.Array:
    """`x` [B, ...], pinned to devices by its rows; as it is outside `rows_over`, or where rows do not divide."""
    mesh = _MESH.get()
    if mesh is None or num_row_shards(mesh) == 1 or x.shape[0] % num_row_shards(mesh):
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(ROW_AXES)))
