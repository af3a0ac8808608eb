"""Attention kernels as matrices to an optimizer that factors: the heads and the size of a head are one dimension.

Adafactor keeps means over rows and columns in place of a second moment, of matrices whose sides are long enough.
Kernels here are [embed, heads, kv], and no head is that long; t5x stores them as [embed, heads * kv]. So the optimizer
is given them as t5x stores them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import optax
from jax.sharding import NamedSharding, PartitionSpec

ParameterAxes = Mapping[str, tuple[str, ...]]
"""The logical axes of each parameter, by its name."""


def as_matrices(transform: optax.GradientTransformation, axes: ParameterAxes) -> optax.GradientTransformation:
    """`transform` over parameters {name: array} whose heads are joined; outside they keep their shapes."""

    def join(arrays: Any) -> dict[str, Any]:
        return {name: x.reshape(joined_shape(x.shape, axes.get(name, ()))) for name, x in arrays.items()}

    def init(params: Any) -> Any:
        return transform.init(join(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        joined: Any
        joined, state = transform.update(join(updates), state, None if params is None else join(params))
        return {name: x.reshape(updates[name].shape) for name, x in joined.items()}, state

    return optax.GradientTransformation(init, update)


def joined_shape(shape: Sequence[int], axes: Sequence[str]) -> tuple[int, ...]:
    """A parameter's shape as the optimizer sees it.

    >>> joined_shape((512, 8, 64), ("embed", "heads", "kv"))
    (512, 512)
    """
    at = _heads(axes)
    return tuple(shape) if at is None else (*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :])


def joined_sharding(sharding: NamedSharding, axes: Sequence[str]) -> NamedSharding:
    """How a parameter of `joined_shape` lies where the parameter itself lies as `sharding`."""
    at = _heads(axes)
    if at is None:
        return sharding
    entries = (*sharding.spec, *([None] * (len(axes) - len(sharding.spec))))
    # Whole heads on a device are a contiguous part of the joined dimension; parts of every head would not be.
    heads = entries[at] if entries[at + 1] is None else None
    return NamedSharding(sharding.mesh, PartitionSpec(*entries[:at], heads, *entries[at + 2 :]))


def _heads(axes: Sequence[str]) -> int | None:
    """Where the two dimensions are, heads first."""
    pairs = itertools.pairwise(axes)
    return next((at for at, pair in enumerate(pairs) if pair in (("heads", "kv"), ("kv_heads", "kv"))), None)
