"""Kernels of a model with LoRA as another program is to have them: merged, as they are read."""

from __future__ import annotations

import dataclasses

import numpy as np

from cat_jax.foreign.arrays import Checkpoint, ForeignArray, read_all
from cat_jax.models.adapters import KERNEL, LORA_A, LORA_B, merged
from cat_jax.models.lora import is_adapter


def merge_adapters(parameters: Checkpoint, factor: float, dtype: np.dtype | None = None) -> Checkpoint:
    """The parameters without adapters, which are in their kernels.

    Args:
      parameters: a model's own, by name.
      factor: alpha / rank.
      dtype: of the kernels that are merged, which is in f32 and rounded once; None is each kernel's own.
    """
    arrays = dict(parameters.arrays)
    found = {name: array for name, array in arrays.items() if not is_adapter(name)}
    for name in found:
        stem, _, last = name.rpartition(".")
        a, b = arrays.get(f"{stem}.{LORA_A}"), arrays.get(f"{stem}.{LORA_B}")
        if last == KERNEL and a is not None and b is not None:
            kernel = arrays[name]
            found[name] = MergedArray(kernel, a, b, factor, kernel.dtype if dtype is None else dtype)
    return dataclasses.replace(parameters, arrays=found)


@dataclasses.dataclass(frozen=True)
class MergedArray:
    """A kernel [*I, *O] or a stack of them, with what its adapters add."""

    kernel: ForeignArray
    a: ForeignArray
    b: ForeignArray
    factor: float
    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.kernel.shape

    @property
    def chunk_rows(self) -> int:
        return self.kernel.chunk_rows

    def read(self, start: int, stop: int) -> np.ndarray:
        stacked = len(self.a.shape) + len(self.b.shape) - len(self.shape) == 3
        b = self.b.read(start, stop) if stacked else read_all(self.b)
        return merged(self.kernel.read(start, stop), self.a.read(start, stop), b, self.factor, np).astype(self.dtype)
