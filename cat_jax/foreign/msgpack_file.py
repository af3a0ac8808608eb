"""A msgpack file of `flax.serialization` as a tree whose arrays stay in the file.

`msgpack` and Flax themselves read a file whole. Here only its structure is read; arrays are passed over, and known by
where they lie. Format: https://github.com/msgpack/msgpack/blob/master/spec.md; Flax's extension types are 1 for an
array and 3 for a NumPy scalar, both an inner (shape, dtype, bytes), and an array above 1 GiB is a map of pieces.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import struct
from typing import Any, BinaryIO

from cat_jax.errors import UserError
from cat_jax.foreign.arrays import PiecedArray, RawArray, cut_short, dtype_named

_NUMBERS = {
    0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q",
    0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q",
}  # fmt: skip
_SIZED = {  # type byte: (what, format of its length)
    0xC4: ("bin", ">B"), 0xC5: ("bin", ">H"), 0xC6: ("bin", ">I"),
    0xC7: ("ext", ">B"), 0xC8: ("ext", ">H"), 0xC9: ("ext", ">I"),
    0xD9: ("str", ">B"), 0xDA: ("str", ">H"), 0xDB: ("str", ">I"),
    0xDC: ("array", ">H"), 0xDD: ("array", ">I"), 0xDE: ("map", ">H"), 0xDF: ("map", ">I"),
}  # fmt: skip
_FIXED_EXT = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_ARRAY, _SCALAR = 1, 3
_PIECES = "__msgpack_chunked_array__"
_DEEPEST = 64


@dataclasses.dataclass(frozen=True)
class _Bytes:
    """Bytes that were passed over; `code` is the extension type, None of plain bytes."""

    offset: int
    size: int
    code: int | None = None


def read_tree(path: pathlib.Path) -> Any:
    """Nested dicts; leaves are `RawArray`s, `PiecedArray`s, numbers, strings, lists and None.

    Raises:
      UserError: the file is cut short, or not msgpack as Flax writes it.
    """
    with path.open("rb") as f:
        reader = _Reader(path, f)
        try:
            return reader.arrays_of(reader.value(0))
        except (KeyError, ValueError, TypeError, struct.error) as e:
            raise UserError(f"{path} is not a msgpack file of Flax ({e})", "name a checkpoint of T5X") from e


class _Reader:
    def __init__(self, path: pathlib.Path, file: BinaryIO):
        self._path, self._file, self._size = path, file, path.stat().st_size

    def value(self, depth: int) -> Any:
        """The value that begins where the file stands; afterwards it stands at the next."""
        if depth > _DEEPEST:
            raise ValueError("it is nested too deeply")
        first = self._take(1)[0]
        if first < 0x80:
            return first
        if first >= 0xE0:
            return first - 0x100
        if first in _CONSTANTS:
            return _CONSTANTS[first]
        if first in _NUMBERS:
            return self._number(_NUMBERS[first])
        if first in _FIXED_EXT:
            return self._pass_over(_FIXED_EXT[first], ext=True)
        if first in _SIZED:
            what, size = _SIZED[first][0], int(self._number(_SIZED[first][1]))
        elif first < 0xC0:
            what, size = (("map", 15), ("array", 15), ("str", 31), ("str", 31))[(first - 0x80) >> 4]
            size &= first
        else:
            raise ValueError(f"byte {first:#x} begins no value")
        if what == "map":
            return {str(self.value(depth + 1)): self.value(depth + 1) for _ in range(size)}
        if what == "array":
            return [self.value(depth + 1) for _ in range(size)]
        if what == "str":
            return self._take(size).decode()
        return self._pass_over(size, ext=what == "ext")

    def arrays_of(self, tree: Any) -> Any:
        """`tree` with arrays in place of the bytes that hold them."""
        if isinstance(tree, dict):
            return self._joined(tree) if tree.get(_PIECES) else {k: self.arrays_of(v) for k, v in tree.items()}
        if isinstance(tree, list):
            return [self.arrays_of(item) for item in tree]
        return self._array(tree) if isinstance(tree, _Bytes) and tree.code in (_ARRAY, _SCALAR) else tree

    def _array(self, where: _Bytes) -> RawArray:
        self._file.seek(where.offset)
        shape, name, data = self.value(0)
        dtype = dtype_named(name if isinstance(name, str) else "")
        if dtype is None or data.size != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"an array of {name} and {shape} has {data.size} bytes")
        return RawArray(self._path, data.offset, tuple(shape), dtype)

    def _joined(self, tree: dict[str, Any]) -> PiecedArray:
        shape = tuple(tree["shape"][str(i)] for i in range(len(tree["shape"])))
        pieces = [self._array(tree["chunks"][str(i)]) for i in range(len(tree["chunks"]))]
        if sum(piece.shape[0] for piece in pieces) != math.prod(shape):
            raise ValueError(f"the pieces of an array are not {shape} together")
        return PiecedArray(pieces, shape, pieces[0].dtype)

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _take(self, size: int) -> bytes:
        found = self._file.read(size)
        if len(found) < size:
            raise cut_short(self._path)
        return found

    def _pass_over(self, size: int, ext: bool) -> _Bytes:
        code = self._number(">b") if ext else None
        offset = self._file.tell()
        if offset + size > self._size:
            raise cut_short(self._path)
        self._file.seek(size, 1)
        return _Bytes(offset, size, code)
