"""Activations stay split by rows of the batch: said once per layer, so that the compiler moves parameters instead.

Left alone, XLA may hand the axis `fsdp` from the rows of a batch over to the embedding, because parameters are split
along it there: it then gathers every activation on all devices of that axis. With activations pinned to their rows it
gathers each layer's parameters just before they are used, and sums gradients back to where parameters lie.

Where rows are split over every axis of the mesh no device is left to share a layer's work. Parameters are then made
whole where they are read, whatever the rules that store them split: each device runs the program that one device alone
would run on its rows, down to the last bit.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cat_jax.parallel.batches import ALL_AXES, HEAD_AXIS, ROW_AXES, RowAxes, batch_sharding, num_row_shards

_ROWS: contextvars.ContextVar[tuple[Mesh, RowAxes] | None] = contextvars.ContextVar("rows", default=None)


@contextlib.contextmanager
def rows_over(mesh: Mesh, axes: RowAxes = ROW_AXES) -> Iterator[None]:
    """Models that are traced inside keep their activations split by rows over `axes` of `mesh`. Enter it inside jit."""
    token = _ROWS.set((mesh, axes))
    try:
        yield
    finally:
        _ROWS.reset(token)


def by_rows(x: jax.Array) -> jax.Array:
    """`x` [B, ...], pinned to devices by its rows; as it is outside `rows_over`, or where rows do not divide."""
    rows = _ROWS.get()
    if rows is None or num_row_shards(*rows) == 1 or x.shape[0] % num_row_shards(*rows):
        return x
    return jax.lax.with_sharding_constraint(x, batch_sharding(*rows))


def whole(parameter: jax.Array) -> jax.Array:
    """`parameter`, gathered on every device where `rows_over` splits rows over all axes; elsewhere as it is."""
    rows = _ROWS.get()
    if rows is None or rows[1] != ALL_AXES or rows[0].size == 1:
        return parameter
    return jax.lax.with_sharding_constraint(parameter, NamedSharding(rows[0], PartitionSpec()))


def by_rows_and_heads(kernel: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """`kernel(*arrays)`, each device its own rows and, if an axis is left for them, its own heads.

    The compiler splits what it knows; it does not know a kernel that is written by hand.

    Args:
        kernel: of arrays with rows first, and heads second where they have four dimensions; gives such an array.
        *arrays: its arguments.
    """
    rows = _ROWS.get()
    if rows is None or rows[0].size == 1:
        return kernel(*arrays)
    mesh, axes = rows
    row_axes = axes if arrays[0].shape[0] % num_row_shards(mesh, axes) == 0 else None
    tensor = None if HEAD_AXIS in axes else HEAD_AXIS
    if any(x.ndim == 4 and x.shape[1] % mesh.shape[HEAD_AXIS] for x in arrays):
        tensor = None
    four, other = PartitionSpec(row_axes, tensor), PartitionSpec(row_axes)
    specs = tuple(four if x.ndim == 4 else other for x in arrays)
    return jax.shard_map(kernel, mesh=mesh, in_specs=specs, out_specs=four, check_vma=False)(*arrays)
