"""Which examples share a row: first fit over the rows of one batch, planned from lengths alone.

Every host plans the whole global batch and fills its own rows, so packed batches do not depend on the number of hosts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from cat_jax.data.assemble import Placement
from cat_jax.data.order import ExampleOrder


@dataclasses.dataclass(frozen=True)
class PackState:
    """Where the planner stands between two batches: the next stream position, and the earlier ones set aside."""

    position: int = 0
    waiting: tuple[int, ...] = ()


class Packer:
    """Plans packed batches.

    The examples that wait come first, then those of the stream, each into the first row that has room for it. One that
    fits nowhere waits for the next batch; the batch is closed when `patience` examples wait. So no example waits for
    more than a few batches, and the state between batches is a handful of positions.

    Args:
      order: the stream of examples.
      lengths: of each task's store, i32[num_examples, 2]: columns of the encoder's and the decoder's side.
      num_rows: of the global batch.
      capacity: columns of a row, on either side.
      patience: how many examples may wait before a batch is closed.
    """

    _CHUNK = 1024

    def __init__(
        self,
        order: ExampleOrder,
        lengths: Sequence[np.ndarray],
        num_rows: int,
        capacity: tuple[int, int],
        patience: int,
    ):
        self._order, self._lengths = order, lengths
        self._num_rows, self._capacity, self._patience = num_rows, capacity, patience
        self._chunk: tuple[int, list[tuple[int, int, int, int]]] = (0, [])

    def plan(self, state: PackState) -> tuple[Placement, PackState] | None:
        """The next batch and the state after it; None at the end of the stream."""
        rows = _Rows(self._num_rows, self._capacity)
        waiting = [p for p in state.waiting if not rows.place(self._example(p))]
        position, end = state.position, self._order.length
        while len(waiting) < self._patience and (end is None or position < end):
            if not rows.place(self._example(position)):
                waiting.append(position)
            position += 1
        return (rows.placement(), PackState(position, tuple(waiting))) if rows.placed else None

    def _example(self, position: int) -> tuple[int, int, int, int]:
        """(task, index, columns of either side) at a stream position; found for a chunk of positions at once."""
        start, chunk = self._chunk
        if not start <= position < start + len(chunk):
            start = position // self._CHUNK * self._CHUNK
            chunk = self._examples(start, start + self._CHUNK)
            self._chunk = (start, chunk)
        return chunk[position - start]

    def _examples(self, start: int, stop: int) -> list[tuple[int, int, int, int]]:
        tasks, indices = self._order.between(start, stop)
        sizes = np.zeros((len(tasks), 2), np.int64)
        for task in np.unique(tasks).tolist():
            sizes[tasks == task] = self._lengths[task][indices[tasks == task]]
        return list(zip(tasks.tolist(), indices.tolist(), sizes[:, 0].tolist(), sizes[:, 1].tolist(), strict=True))


class _Rows:
    """The rows of a batch while they fill."""

    def __init__(self, num_rows: int, capacity: tuple[int, int]):
        self._room = np.tile(np.array(capacity, np.int64)[:, None], (1, num_rows))
        self._capacity, self._counts = capacity, [0] * num_rows
        self.placed: list[tuple[int, int, int, int, int, int]] = []

    def place(self, example: tuple[int, int, int, int]) -> bool:
        """Puts the example into the first row with room for it on both sides, if there is one."""
        task, index, encoder, decoder = example
        room = self._room
        fits = (room[0] >= encoder) & (room[1] >= decoder)
        row = int(fits.argmax())
        if not fits[row]:
            return False
        self._counts[row] += 1
        columns = self._capacity[0] - int(room[0, row]), self._capacity[1] - int(room[1, row])
        self.placed.append((task, index, row, *columns, self._counts[row]))
        room[0, row] -= encoder
        room[1, row] -= decoder
        return True

    def placement(self) -> Placement:
        return Placement(*np.array(self.placed, np.int64).reshape(-1, 6).T)
