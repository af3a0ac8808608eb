"""Parameters that a checkpoint has not as they are wanted: made of what it has, one kernel at a time.

A kernel is merged with the adapters that lie beside it, and rounded to int8 where that is wanted; both in f32. Beside
what was made before there is only what one kernel is made of.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from cat_jax.models.adapters import KERNEL, merged
from cat_jax.models.int8 import KERNEL_SCALE, quantized
from cat_jax.models.lora import LORA_A, LORA_B, is_adapter


@dataclasses.dataclass(frozen=True)
class Derived:
    """What to read for what is wanted, and how the one becomes the other.

    Attributes:
      wanted: shapes, dtypes and shardings of a model's parameters, by name.
      saved: shapes of the adapters that the checkpoint has, by name; they are merged.
      factor: alpha / rank of these.
    """

    wanted: Mapping[str, jax.ShapeDtypeStruct]
    saved: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    factor: float = 0.0

    @functools.cached_property
    def made(self) -> dict[str, tuple[str, ...]]:
        """{kernel that is made: all that it is made of}."""
        found = {}
        for name in self.wanted:
            stem, _, last = name.rpartition(".")
            adapters = tuple(f"{stem}.{part}" for part in (LORA_A, LORA_B) if f"{stem}.{part}" in self.saved)
            if last == KERNEL and (adapters or f"{stem}.{KERNEL_SCALE}" in self.wanted):
                found[name] = (name, *adapters)
        return found

    def sources(self) -> dict[str, jax.ShapeDtypeStruct]:
        """What to read: as is wanted, but f32 of what something is made of; adapters lie on every device."""
        found: dict[str, jax.ShapeDtypeStruct] = {}
        for name, want in self.wanted.items():
            if name in self.made:
                found[name] = jax.ShapeDtypeStruct(want.shape, jnp.float32, sharding=want.sharding)
                for adapter in self.made[name][1:]:
                    everywhere = NamedSharding(_mesh(want), PartitionSpec())
                    found[adapter] = jax.ShapeDtypeStruct(self.saved[adapter], jnp.float32, sharding=everywhere)
            elif name.rpartition(".")[2] != KERNEL_SCALE:
                found[name] = want
        return found

    def groups(self) -> list[list[str]]:
        """The names of the sources, in what is to be read together."""
        parts = {part for parts in self.made.values() for part in parts}
        plain = [name for name in self.sources() if name not in parts]
        return [*([plain] if plain else []), *map(list, self.made.values())]

    def finish(self, read: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """What was read of whole groups, as it is wanted."""
        found = dict(read)
        for name in [name for name in read if name in self.made]:
            parts = [found.pop(part) for part in self.made[name]]
            want = self.wanted[name]
            scale = self.wanted.get(f"{name.rpartition('.')[0]}.{KERNEL_SCALE}")
            if scale is None:
                (found[name],) = _maker(want.dtype, None, self.factor, (want.sharding,))(*parts)
            else:
                make = _maker(want.dtype, scale.shape, self.factor, (want.sharding, scale.sharding))
                found[name], found[f"{name.rpartition('.')[0]}.{KERNEL_SCALE}"] = make(*parts)
        return found


def adapters_of(arrays: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the adapters among a seal's arrays, which are {name: (dtype, shape)}."""
    return {name: tuple(shape) for name, (_, shape) in arrays.items() if is_adapter(name)}


@functools.cache
def _maker(dtype: Any, scale_shape: tuple[int, ...] | None, factor: float, shardings: tuple[Any, ...]) -> Any:
    """A jitted (kernel, its adapters if any) -> (kernel, its scales if any)."""

    def make(kernel: jax.Array, *adapters: jax.Array) -> tuple[jax.Array, ...]:
        whole = merged(kernel, *adapters, factor=factor) if adapters else kernel
        return (whole.astype(dtype),) if scale_shape is None else quantized(whole, scale_shape)

    return jax.jit(make, out_shardings=shardings)


def _mesh(want: jax.ShapeDtypeStruct) -> Any:
    assert isinstance(want.sharding, NamedSharding)
    return want.sharding.mesh
