"""Many small metrics as one vector: one array to make and to fetch per step instead of a dozen."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PackedMetrics:
    """Metrics by name, flattened; which lies where is part of the tree's structure, so it comes out of jit as well.

    >>> packed = PackedMetrics.pack({"b": jnp.array([2.0, 3.0]), "a": jnp.array(1.0)})
    >>> {name: value.tolist() for name, value in packed.fetch().items()}
    {'a': 1.0, 'b': [2.0, 3.0]}
    """

    vector: jax.Array  # f32[K]
    entries: tuple[tuple[str, tuple[int, ...]], ...] = dataclasses.field(metadata={"static": True})

    @classmethod
    def pack(cls, metrics: Mapping[str, jax.Array]) -> PackedMetrics:
        """One f32 vector; to be called inside jit."""
        names = sorted(metrics)
        vector = jnp.concatenate([jnp.ravel(metrics[name]).astype(jnp.float32) for name in names])
        return cls(vector, tuple((name, tuple(metrics[name].shape)) for name in names))

    def fetch(self) -> dict[str, np.ndarray]:
        """The metrics in f64 on the host; waits until they are computed."""
        vector = np.asarray(jax.device_get(self.vector), np.float64)
        metrics, start = {}, 0
        for name, shape in self.entries:
            metrics[name] = vector[start : start + math.prod(shape)].reshape(shape)
            start += math.prod(shape)
        return metrics
