"""A checkpoint of another program: arrays by name, read some rows at a time.

Nothing is read but what is asked for, so that whoever reads needs no more memory than a block.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import jax.numpy as jnp
import numpy as np

from cat_jax.errors import UserError

BLOCK_BYTES = 8 << 20
"""What is read at once, at most, if a chunk of the file is not larger."""


class ForeignArray(Protocol):
    """An array in a file. A scalar counts as one row."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As in the file."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """As in the file; bfloat16 is that of ml_dtypes."""
        ...

    @property
    def chunk_rows(self) -> int:
        """Rows of the first axis that the file has in one piece: fewer of them cost as much to read."""
        ...

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop` of the first axis; all of a scalar.

        Raises:
          UserError: the file is damaged.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Named arrays.

    Attributes:
      label: where it is, for messages.
      arrays: by name; names of nested trees are joined by slashes, those of Hugging Face are as they are.
    """

    label: str
    arrays: Mapping[str, ForeignArray]


@dataclasses.dataclass(frozen=True)
class RawArray:
    """A C-ordered, little-endian array at an offset of a file."""

    path: pathlib.Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def chunk_rows(self) -> int:
        return 1

    def read(self, start: int, stop: int) -> np.ndarray:
        # Not mapped: pages of a mapped file count as this process's memory, and all of the file would be mapped.
        size = row_bytes(self)
        shape = (stop - start, *self.shape[1:]) if self.shape else ()
        wanted = (stop - start) * size
        found = np.fromfile(self.path, np.uint8, wanted, offset=self.offset + start * size)
        if len(found) < wanted:
            raise cut_short(self.path)
        return found.view(self.dtype).reshape(shape)


@dataclasses.dataclass(frozen=True)
class PiecedArray:
    """A C-ordered array whose flattened elements are in several pieces, one after the other."""

    pieces: Sequence[RawArray]
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def chunk_rows(self) -> int:
        return 1

    def read(self, start: int, stop: int) -> np.ndarray:
        width = math.prod(self.shape[1:])
        first, last, before, parts = start * width, stop * width, 0, []
        for piece in self.pieces:
            low, high = max(first - before, 0), min(last - before, piece.shape[0])
            if low < high:
                parts.append(piece.read(low, high))
            before += piece.shape[0]
        found = np.concatenate(parts) if parts else np.empty(0, self.dtype)
        if found.size != last - first:
            raise cut_short(self.pieces[0].path)
        return found.reshape((stop - start, *self.shape[1:]) if self.shape else ())


def row_count(array: ForeignArray) -> int:
    """Rows of the first axis; 1 for a scalar."""
    return array.shape[0] if array.shape else 1


def row_bytes(array: ForeignArray) -> int:
    """Bytes of a row."""
    return math.prod(array.shape[1:]) * array.dtype.itemsize


def size_bytes(array: ForeignArray) -> int:
    """Bytes of all of it."""
    return row_count(array) * row_bytes(array)


def read_all(array: ForeignArray) -> np.ndarray:
    """The whole array."""
    return array.read(0, row_count(array))


def blocks(array: ForeignArray, multiple: int = 1) -> Iterator[tuple[int, int]]:
    """(start, stop) of the rows to read at a time: at most `BLOCK_BYTES`, if chunks are not larger.

    Args:
      array: what is to be read.
      multiple: blocks begin at multiples of this.
    """
    count, together = row_count(array), math.lcm(array.chunk_rows, multiple)
    step = max(BLOCK_BYTES // max(row_bytes(array), 1) // together, 1) * together
    for start in range(0, count, step):
        yield start, min(start + step, count)


def dtype_named(name: str) -> np.dtype | None:
    """The dtype of a name such as 'float32' or 'bfloat16'; None if there is none."""
    try:
        return jnp.dtype(name)
    except TypeError:
        return None


def cut_short(path: pathlib.Path) -> UserError:
    """The line for a file that ends too early."""
    return UserError(f"{path} is cut short", "copy or download it again")
