"""TPU slices by their type: what Google publishes of v4, v5e ("v5litepod"), v5p and v6e.

Sources: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e} and .../runtimes; cloud.google.com/kubernetes-engine/docs/concepts/
plan-tpus for the labels.
"""

from __future__ import annotations

import dataclasses
import math

from cat_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Slice:
    """One TPU slice.

    Attributes:
      type: the accelerator type of the TPU API, as in `--type v5litepod-16`.
      topology: chips along each axis, as in "4x4".
      chips_per_host: chips of one VM.
      accelerator: GKE's label cloud.google.com/gke-tpu-accelerator.
      runtime: the image of a TPU VM.
    """

    type: str
    topology: str
    chips_per_host: int
    accelerator: str
    runtime: str

    @property
    def chips(self) -> int:
        return math.prod(int(side) for side in self.topology.split("x"))

    @property
    def hosts(self) -> int:
        """VMs, and so processes."""
        return self.chips // self.chips_per_host

    def with_hosts_of(self, chips: int) -> Slice:
        """The same chips in VMs of another size, which GKE's node pools may have.

        Raises:
          UserError: the slice cannot be divided so.
        """
        if chips not in (1, 4, 8) or self.chips % chips:
            raise UserError(f"{self.type} has no hosts of {chips} chips", f"it has {self.chips} chips; give 1, 4 or 8")
        return dataclasses.replace(self, chips_per_host=chips)


@dataclasses.dataclass(frozen=True)
class _Generation:
    """The number in a type's name counts cores, of which a chip of v4 and v5p has two."""

    cores: int
    accelerator: str
    runtime: str
    topologies: tuple[str, ...]


_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16")
_SQUARES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_GENERATIONS = {
    "v4": _Generation(2, "tpu-v4-podslice", "tpu-ubuntu2204-base", _CUBES),
    "v5litepod": _Generation(1, "tpu-v5-lite-podslice", "v2-alpha-tpuv5-lite", _SQUARES),
    "v5p": _Generation(2, "tpu-v5p-slice", "v2-alpha-tpuv5", (*_CUBES, "16x16x16", "16x16x24")),
    "v6e": _Generation(1, "tpu-v6e-slice", "v2-alpha-tpuv6e", _SQUARES),
}


def _slices(name: str, generation: _Generation) -> list[Slice]:
    result = []
    for topology in generation.topologies:
        chips = math.prod(int(side) for side in topology.split("x"))
        # Slices up to one host's size are one VM; larger ones are of VMs of 4 chips.
        per_host = min(chips, 8) if generation.cores == 1 and chips <= 8 else 4
        kind = f"{name}-{chips * generation.cores}"
        result.append(Slice(kind, topology, per_host, generation.accelerator, generation.runtime))
    return result


SLICES = {item.type: item for name, generation in _GENERATIONS.items() for item in _slices(name, generation)}


def slice_of(kind: str) -> Slice:
    """The slice of an accelerator type.

    Raises:
      UserError: there is none; lists those of the same generation, or the generations.

    >>> slice_of("v5litepod-256").hosts, slice_of("v4-32").hosts
    (64, 4)
    """
    if kind in SLICES:
        return SLICES[kind]
    generation = kind.partition("-")[0]
    known = [name for name in SLICES if name.startswith(f"{generation}-")] or [f"{name}-..." for name in _GENERATIONS]
    raise UserError(f"there is no TPU type {kind}", f"one of {', '.join(known)}")
