"""Two text files whose lines are each other's translations, of which any range is read without what is before it."""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Iterator

import numpy as np

_EVERY = 4096  # lines between two places that are remembered
_BLOCK = 1 << 24  # bytes


class ParallelText:
    """Pairs of lines. Their number is found by one pass over both files, once a process.

    Args:
      source, target: the files.

    Raises:
      ValueError: one has more lines than the other, so that all pairs after a gap are wrong.
    """

    def __init__(self, source: pathlib.Path, target: pathlib.Path):
        self._files = [_Lines.of(source), _Lines.of(target)]
        ours, theirs = (lines.count for lines in self._files)
        if ours != theirs:
            raise ValueError(
                f"{source} and {target} have different numbers of lines ({ours:,} and {theirs:,}): "
                "fetch the recipe again"
            )

    def __len__(self) -> int:
        return self._files[0].count

    def pairs(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[bytes, bytes]]:
        """The pairs from `start` to before `stop` (default: the end)."""
        stop = len(self) if stop is None else stop
        return zip(*(lines.read(start, stop) for lines in self._files), strict=True)


class _Lines:
    """The lines of one file, with the places of some of them."""

    def __init__(self, file: pathlib.Path):
        self._file = file
        places, read, count, last = [np.zeros(1, np.int64)], 0, 0, b"\n"
        with file.open("rb") as stream:
            while block := stream.read(_BLOCK):
                ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + read + 1
                numbers = np.arange(count + 1, count + 1 + len(ends))
                places.append(ends[numbers % _EVERY == 0])
                read, count, last = read + len(block), count + len(ends), block[-1:]
        self.count = count + (last != b"\n")
        self._places = np.concatenate(places)

    @classmethod
    def of(cls, file: pathlib.Path) -> _Lines:
        status = os.stat(file)
        return _lines(file, status.st_size, status.st_mtime_ns)

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        nearest = start // _EVERY
        with self._file.open("rb") as stream:
            stream.seek(int(self._places[nearest]))
            for number in range(nearest * _EVERY, stop):
                line = stream.readline()
                if number >= start:
                    yield line.rstrip(b"\r\n")


@functools.lru_cache(maxsize=8)
def _lines(file: pathlib.Path, size: int, modified: int) -> _Lines:
    del size, modified  # of the file when it was read
    return _Lines(file)
