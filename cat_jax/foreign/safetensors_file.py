"""The safetensors format (https://huggingface.co/docs/safetensors), read and written tensor by tensor.

The library of that name maps whole files when it reads, and takes all tensors at once when it writes; either way memory
would grow with the file. Tests hold both against it.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from cat_jax.errors import UserError
from cat_jax.files import cannot_write
from cat_jax.foreign.arrays import RawArray, cut_short
from cat_jax.foreign.pointers import refuse_pointer

_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": jnp.dtype("bfloat16"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_LARGEST_HEADER = 100 << 20  # the format's own limit
_AGAIN = "copy or download it again"


def read_header(path: pathlib.Path) -> dict[str, RawArray]:
    """The tensors of a file by name; none is read.

    Raises:
      UserError: the file is not safetensors, is cut short, or has a tensor of a dtype that is not read.
    """
    refuse_pointer(path)
    size = path.stat().st_size
    with path.open("rb") as f:
        length = int.from_bytes(f.read(8), "little")
        if size < 8 or length > _LARGEST_HEADER:
            raise UserError(f"{path} is not a safetensors file", _AGAIN)
        if size < 8 + length:
            raise cut_short(path)
        try:
            header = json.loads(f.read(length))
            header.pop("__metadata__", None)
            found = {name: _tensor(path, name, entry, 8 + length) for name, entry in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise UserError(f"{path} is not a safetensors file ({e})", _AGAIN) from e
    needed = max((a.offset + math.prod(a.shape) * a.dtype.itemsize for a in found.values()), default=0)
    if needed > size:
        raise UserError(f"{path} is cut short: it has {size} bytes and its header speaks of {needed}", _AGAIN)
    return found


def _tensor(path: pathlib.Path, name: str, entry: Mapping[str, Any], data: int) -> RawArray:
    shape, (start, stop) = tuple(map(int, entry["shape"])), entry["data_offsets"]
    dtype = _DTYPES.get(entry["dtype"])
    if dtype is None:
        raise UserError(
            f"{path}: {name} is of dtype {entry['dtype']}", "save the model in float32, bfloat16 or float16"
        )
    if min((0, *shape)) < 0 or start < 0 or stop - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"the entry of {name} contradicts itself")
    return RawArray(path, data + start, shape, dtype)


class SafetensorsWriter:
    """Writes a file whose tensors are known beforehand and come in any order.

    Args:
      path: the file; it is made.
      tensors: {name: (dtype, shape)}.

    Raises:
      UserError: the disk is full or read-only.
    """

    def __init__(self, path: pathlib.Path, tensors: Mapping[str, tuple[np.dtype, tuple[int, ...]]]):
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers opens no file without this
        end = 0
        for name, (dtype, shape) in tensors.items():
            start, end = end, end + math.prod(shape) * dtype.itemsize
            header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._path, self._missing = path, dict(tensors)
        self._offsets = {name: 8 + len(text) + header[name]["data_offsets"][0] for name in tensors}
        try:
            self._file = path.open("wb")
            self._file.write(len(text).to_bytes(8, "little") + text)
        except OSError as e:
            raise cannot_write(path, e) from e

    def write(self, name: str, array: np.ndarray) -> None:
        """Writes one tensor, of the dtype and shape that were announced."""
        dtype, shape = self._missing.pop(name)
        if array.dtype != dtype or array.shape != shape:
            raise ValueError(f"{name} is {array.dtype}{array.shape} and was to be {dtype}{shape}")
        try:
            self._file.seek(self._offsets[name])
            self._file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        except OSError as e:
            raise cannot_write(self._path, e) from e

    def close(self) -> None:
        """Brings the file to the disk.

        Raises:
          ValueError: a tensor is missing.
        """
        if self._missing:
            raise ValueError(f"{self._path}: {sorted(self._missing)} were not written")
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as e:
            raise cannot_write(self._path, e) from e
