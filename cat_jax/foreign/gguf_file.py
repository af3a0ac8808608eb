"""GGUF (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), read by the `gguf` library, some rows at a time.

The library maps the whole file; here it is asked for metadata and places, and for the numbers of the rows in hand.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from cat_jax.errors import UserError
from cat_jax.foreign.arrays import cut_short
from cat_jax.foreign.pointers import refuse_pointer

SUFFIX, _MAGIC = ".gguf", b"GGUF"
_AGAIN = "copy or download it again"


@dataclasses.dataclass(frozen=True)
class GgufArray:
    """A tensor of a file, in float32 when it is read: quantised numbers are what they stand for.

    Attributes:
      path: of the file.
      offset: of the tensor in it, in bytes.
      shape: in the order of NumPy, which is the reverse of the file's.
      encoding: number of its `gguf.GGMLQuantizationType`.
      block: (numbers, bytes) of what is encoded together; a row has whole blocks.
      heads: where not 0, rows are of so many heads, and in each the two halves of its rotary pairs lie alternately:
        they are read one half after the other, as `transformers` has them.
    """

    path: pathlib.Path
    offset: int
    shape: tuple[int, ...]
    encoding: int
    block: tuple[int, int] = (1, 4)
    heads: int = 0

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32)

    @property
    def chunk_rows(self) -> int:
        if self.heads:
            return self.shape[0] // self.heads
        return self.block[0] if len(self.shape) < 2 else 1

    def read(self, start: int, stop: int) -> np.ndarray:
        if not self.heads:
            return self._read(start, stop)
        size = self.chunk_rows
        low, high = start // size * size, -(-stop // size) * size
        pairs = self._read(low, high).reshape(-1, size // 2, 2, *self.shape[1:])
        return pairs.swapaxes(1, 2).reshape(high - low, *self.shape[1:])[start - low : stop - low]

    def _read(self, start: int, stop: int) -> np.ndarray:
        numbers, size = self.block
        width = math.prod(self.shape[1:])
        wanted = (stop - start) * width // numbers * size
        offset = self.offset + start * width // numbers * size
        found = np.fromfile(self.path, np.uint8, wanted, offset=offset)
        if len(found) < wanted:
            raise cut_short(self.path)
        gguf = import_gguf(self.path)
        rows = found.reshape(1 if len(self.shape) < 2 else stop - start, -1)
        values = gguf.dequantize(rows, gguf.GGMLQuantizationType(self.encoding))
        return values.reshape(stop - start, *self.shape[1:])


@dataclasses.dataclass(frozen=True, eq=False)
class GgufFile:
    """What a file says beside its numbers.

    Attributes:
      path: of it.
      metadata: by key, as Python's numbers, texts and lists.
      tensors: by name, as they are in the file.
    """

    path: pathlib.Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufArray]


def is_gguf(path: pathlib.Path) -> bool:
    """Whether a file is meant to be one: by its suffix, or as it begins."""
    if not path.is_file():
        return False
    return path.suffix == SUFFIX or _beginning(path) == _MAGIC


def read_file(path: pathlib.Path) -> GgufFile:
    """Metadata and places of the tensors; remembered while the file does not change.

    Raises:
      UserError: it is no such file, is cut short, in several parts, or encoded in a way that is not read; or the
        library is not installed.
    """
    status = path.stat()
    return _read_file(path, (status.st_size, status.st_mtime_ns, status.st_ino))


@functools.lru_cache(maxsize=2)  # a vocabulary takes seconds to read, and tens of megabytes
def _read_file(path: pathlib.Path, stamp: tuple[int, ...]) -> GgufFile:
    refuse_pointer(path)
    if _beginning(path) != _MAGIC:
        raise UserError(f"{path} is not a GGUF file", _AGAIN)
    gguf = import_gguf(path)
    try:
        reader = gguf.GGUFReader(path)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
    except (ValueError, IndexError, KeyError, OverflowError) as e:  # the library raises nothing of its own
        newer = "; if it is whole, pip install -U gguf"
        raise UserError(f"{path} is cut short, damaged, or not of a version that is read", _AGAIN + newer) from e
    if reader.byte_order != "I":
        raise UserError(f"{path} has its bytes in the other order", "take the little-endian file of the model")
    if metadata.get("split.count", 1) > 1:
        raise UserError(
            f"{path} is one of {metadata['split.count']} parts of a file", "join them by llama-gguf-split --merge"
        )
    found = {tensor.name: _array(path, tensor, gguf) for tensor in reader.tensors}
    for encoding in {array.encoding for array in found.values()}:
        _check_encoding(path, encoding, gguf)
    return GgufFile(path, metadata, found)


def import_gguf(path: pathlib.Path) -> Any:
    """The library.

    Raises:
      UserError: it is not installed; names the file for which it is needed.
    """
    try:
        import gguf  # pyright: ignore[reportMissingImports]
    except ImportError as e:
        raise UserError(f"cannot import gguf, which reads {path} ({e})", "pip install 'cat-jax[gguf]'") from e
    return gguf


def _array(path: pathlib.Path, tensor: Any, gguf: Any) -> GgufArray:
    encoding = gguf.GGMLQuantizationType(tensor.tensor_type)
    shape = tuple(int(size) for size in reversed(tensor.shape.tolist()))
    return GgufArray(path, int(tensor.data_offset), shape, int(encoding), gguf.GGML_QUANT_SIZES[encoding])


def _check_encoding(path: pathlib.Path, encoding: int, gguf: Any) -> None:
    """Refuses what the library cannot decode, before anything is read."""
    kind = gguf.GGMLQuantizationType(encoding)
    try:
        gguf.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError as e:
        raise UserError(
            f"{path} has tensors in {kind.name}, which gguf cannot decode", "take another file of the model"
        ) from e


def _beginning(path: pathlib.Path) -> bytes:
    with path.open("rb") as f:
        return f.read(len(_MAGIC))
