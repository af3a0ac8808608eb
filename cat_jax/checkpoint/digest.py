"""A digest of parameters that depends on their bits alone: not on mesh, hosts, file layout or time."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

_WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}


@functools.partial(jax.jit, static_argnames="mesh")
def _all_mixed_sums(arrays: Mapping[str, jax.Array], mesh: jax.sharding.Mesh | None) -> jax.Array:
    """u32[len(arrays), 2]: `_mixed_sums` of each in the order of names, in one program and on every device."""
    sums = jnp.stack([_mixed_sums(arrays[name]) for name in sorted(arrays)])
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()) if mesh else None
    return jax.lax.with_sharding_constraint(sums, everywhere) if everywhere else sums


def _mixed_sums(x: jax.Array) -> jax.Array:
    """u32[2]: sums of scrambled (bits, position) modulo 2**32, which no order of summation can change."""
    word = _WORDS[x.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.uint8) if x.dtype == bool else x, word).astype(jnp.uint32)
    position = jnp.zeros(bits.shape, jnp.uint32)
    for dimension, size in enumerate(bits.shape):
        index = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, dimension)
        position = position * np.uint32(size % 2**32) + index
    mixed = (bits ^ (position * np.uint32(2654435769))) * np.uint32(0x85EBCA6B)
    mixed = (mixed ^ (mixed >> 15)) * np.uint32(0xC2B2AE35)
    mixed = mixed ^ (mixed >> 13)
    total = jnp.sum(mixed, dtype=jnp.uint32)
    weighted = jnp.sum(mixed * (2 * position + 1), dtype=jnp.uint32)
    return jnp.stack([total, weighted])


def params_digest(params: Mapping[str, jax.Array]) -> str:
    """A name for the values of `params`: equal parameters have equal digests on any mesh and any number of hosts.

    Computed on the devices in integer arithmetic, so nothing is gathered. It tells models apart and finds
    accidents; it is no defence against forgery.

    Args:
      params: {name: array}; every process must call this with the same names.

    Returns:
      64 hexadecimal digits.
    """
    names = sorted(params)
    sums = _all_mixed_sums(dict(params), getattr(params[names[0]].sharding, "mesh", None))
    digest = hashlib.sha256()
    for name, value in zip(names, np.asarray(sums), strict=True):
        digest.update(f"{name} {params[name].dtype} {tuple(params[name].shape)} ".encode() + value.tobytes())
    return digest.hexdigest()
