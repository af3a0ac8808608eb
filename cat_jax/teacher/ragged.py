"""Records of unequal length: all have a head of one size, which says how many bytes of the rest count."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

_STRIDE = 64


@dataclasses.dataclass(frozen=True)
class Ragged:
    """How a layout's records shrink on disk. In memory all have the same size, zero where nothing counts.

    Attributes:
      head: bytes that every record has.
      rest: heads u8[N, head] to the bytes i64[N] beyond them that count.
    """

    head: int
    rest: Callable[[np.ndarray], np.ndarray]

    def pack(self, records: np.ndarray) -> bytes:
        """All heads of records u8[N, bytes of a record], then what counts of the rests, one after another."""
        heads, rests = records[:, : self.head], records[:, self.head :]
        counted = np.arange(rests.shape[1]) < self.rest(heads)[:, None]
        return heads.tobytes() + rests[counted].tobytes()


class RestIndex:
    """Where each record's rest lies, from the heads of a whole shard; two bytes a record in memory.

    Args:
      sizes: i64[N]: bytes of each rest.
    """

    def __init__(self, sizes: np.ndarray):
        self._sizes = sizes.astype(np.uint16)
        strides = np.pad(sizes, (0, -len(sizes) % _STRIDE)).reshape(-1, _STRIDE)
        ends = np.cumsum(strides.sum(1))
        self._starts = ends - strides.sum(1)
        self.total = int(ends[-1]) if len(ends) else 0

    def find(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(begin, size) i64[M] each of the rests of records `positions` i64[M], counted from the first rest."""
        stride = positions // _STRIDE
        before = stride[:, None] * _STRIDE + np.arange(_STRIDE)
        sizes = self._sizes[np.minimum(before, len(self._sizes) - 1)]
        within = np.where(before < positions[:, None], sizes, 0).sum(1, dtype=np.int64)
        return self._starts[stride] + within, self._sizes[positions].astype(np.int64)
