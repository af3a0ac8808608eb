"""The devices of an evaluation, and which of their axes split the rows of a batch."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh

from cat_jax.parallel.batches import ALL_AXES, ROW_AXES, RowAxes, data_shard, num_row_shards, shard_batch


@dataclasses.dataclass(frozen=True)
class Devices:
    """Where examples are answered.

    Attributes:
      mesh: the devices of all processes.
      axes: those that split rows; with all of them a row's numbers do not depend on the mesh.
    """

    mesh: Mesh
    axes: RowAxes = ALL_AXES

    @classmethod
    def of(cls, mesh: Mesh, reproducible: bool) -> Devices:
        """All axes split rows if `reproducible`; else the tensor axis shares each layer's work."""
        return cls(mesh, ALL_AXES if reproducible else ROW_AXES)

    @property
    def reproducible(self) -> bool:
        """Whether a row's numbers are the same on every mesh."""
        return self.axes == ALL_AXES

    @property
    def chunks(self) -> int:
        """How many chunks are computed at a time, each on one device or on those that share layers."""
        return num_row_shards(self.mesh, self.axes)

    def part(self) -> tuple[int, int]:
        """(index, count): which part of every batch this process feeds, among how many."""
        return data_shard(self.mesh, self.axes)

    def place(self, arrays: dict[str, Any]) -> dict[str, jax.Array]:
        """Global arrays from this process's rows."""
        return shard_batch(arrays, self.mesh, self.axes)
