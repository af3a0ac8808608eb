"""From the rows that a host read to arrays that are split over all devices of all hosts."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cat_jax.errors import UserError
from cat_jax.parallel.mesh import MESH_AXES

RowAxes = tuple[str, ...]
"""The mesh axes over which the rows of a batch are split: the first so many of `MESH_AXES`."""

ROW_AXES: RowAxes = ("data", "fsdp")
"""What training splits rows over: the tensor axis is left to share the work of each layer."""

VOCAB_AXIS = "tensor"
"""What training splits the columns of a head over: devices that share rows share the vocabulary."""

HEAD_AXIS = "tensor"
"""What training splits attention's heads over, where a rule has not said otherwise."""

ALL_AXES: RowAxes = MESH_AXES
"""Every device has rows of its own and no layer is shared: a row's numbers do not depend on the mesh."""


def batch_sharding(mesh: Mesh, axes: RowAxes = ROW_AXES) -> NamedSharding:
    """Rows split over `axes`; the other dimensions, and the other axes, see whole rows."""
    return NamedSharding(mesh, PartitionSpec(axes))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same value on every device."""
    return NamedSharding(mesh, PartitionSpec())


def num_row_shards(mesh: Mesh, axes: RowAxes = ROW_AXES) -> int:
    """Into how many parts the rows of a batch are split."""
    return math.prod(mesh.shape[axis] for axis in axes)


def check_batch_size(batch_size: int, mesh: Mesh, num_microbatches: int = 1) -> None:
    """Refuses a global batch that devices and microbatches cannot share evenly.

    Raises:
      UserError: naming batch size, mesh and microbatches.
    """
    parts = num_row_shards(mesh) * num_microbatches
    if num_microbatches < 1 or batch_size < 1 or batch_size % parts:
        raise UserError(
            f"a batch of {batch_size} rows cannot be split over data={mesh.shape['data']} x fsdp={mesh.shape['fsdp']} "
            f"devices and {num_microbatches} microbatches",
            f"make the batch size a multiple of {parts}, above 0",
        )


def data_shard(mesh: Mesh, axes: RowAxes = ROW_AXES) -> tuple[int, int]:
    """(index, count): which part of every batch this process reads, among how many.

    Processes whose devices hold the same rows (an axis that splits no rows spans hosts) read the same part.

    Raises:
      UserError: the mesh gives processes overlapping but unequal rows.
    """
    shards = num_row_shards(mesh, axes)
    row_of_device = np.arange(shards).repeat(mesh.size // shards)
    rows: dict[int, set[int]] = {}
    for device, row in zip(mesh.devices.flat, row_of_device, strict=True):
        rows.setdefault(device.process_index, set()).add(int(row))
    parts = sorted({tuple(sorted(part)) for part in rows.values()})
    if sum(map(len, parts)) != shards or len({len(part) for part in parts}) != 1:
        raise UserError(
            "the mesh gives processes unequal shares of the batch",
            "choose data, fsdp and tensor sizes so that a host's devices divide them or are divided by them",
        )
    return parts.index(tuple(sorted(rows[jax.process_index()]))), len(parts)


def shard_batch(batch: Any, mesh: Mesh, axes: RowAxes = ROW_AXES) -> Any:
    """Global arrays, rows split as `batch_sharding`, from this process's own rows.

    Args:
      batch: a tree of NumPy arrays [rows of this process, ...]: the part that `data_shard` names.
      mesh: the mesh.
      axes: over which of its axes rows are split.

    Returns:
      The tree with `jax.Array`s of [rows of all parts, ...].
    """
    sharding = batch_sharding(mesh, axes)
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)
