"""The device mesh: three axes, named once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh

from cat_jax.errors import UserError

MESH_AXES = ("data", "fsdp", "tensor")
"""Replicas that split the batch; replicas that split batch and parameters; devices that split one layer's work."""


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many devices each mesh axis has; one of them may be -1, "all that are left".

    Attributes:
      data: copies of the model, each with its own rows of the batch.
      fsdp: further splits of the batch over which parameters and optimizer state are spread too.
      tensor: devices that share the work of each layer (heads, MLP columns, vocabulary).
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def shape(self, num_devices: int) -> tuple[int, int, int]:
        """The axes' sizes on `num_devices` devices.

        >>> MeshConfig(data=-1, tensor=2).shape(8)
        (4, 1, 2)

        Raises:
          UserError: more than one -1, or sizes whose product is not the number of devices.
        """
        sizes = (self.data, self.fsdp, self.tensor)
        text = ", ".join(f"{axis}={size}" for axis, size in zip(MESH_AXES, sizes, strict=True))
        if any(isinstance(size, bool) or not isinstance(size, int) or (size < 1 and size != -1) for size in sizes):
            raise UserError(f"mesh {text} has a size that is no count", "give whole numbers above 0, or one -1")
        if sizes.count(-1) > 1:
            raise UserError(f"mesh {text} leaves more than one axis open", "set all but one axis")
        fixed = 1
        for size in sizes:
            fixed *= size if size != -1 else 1
        if num_devices % fixed or (-1 not in sizes and fixed != num_devices):
            need = f"a multiple of {fixed}" if -1 in sizes else str(fixed)
            raise UserError(
                f"mesh {text} needs {need} devices and there are {num_devices}",
                f"choose sizes whose product is {num_devices}, or leave one axis at -1",
            )
        data, fsdp, tensor = (size if size != -1 else num_devices // fixed for size in sizes)
        return data, fsdp, tensor

    def build(self, devices: Sequence[Any] | None = None) -> Mesh:
        """The mesh over `devices` (default: all of them, on all hosts), in an order that suits their network."""
        devices = jax.devices() if devices is None else list(devices)
        return jax.make_mesh(
            self.shape(len(devices)), MESH_AXES, devices=devices, axis_types=(AxisType.Auto,) * len(MESH_AXES)
        )
