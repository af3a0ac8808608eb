"""An array that TensorStore reads: a zarr directory, or an entry of Orbax's database of arrays."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from cat_jax.errors import UserError
from cat_jax.files import cannot_write
from cat_jax.foreign.arrays import dtype_named

_AGAIN = "copy the checkpoint again, with its hidden files (.zarray)"


@dataclasses.dataclass(frozen=True)
class ZarrArray:
    """Opened when its shape is first asked for.

    Attributes:
      driver: of TensorStore, "zarr" or "zarr3".
      kvstore: where the array is, as TensorStore spells it.
      label: the same for messages.
      assumed: what an index elsewhere says of it (`dtype`, `metadata`): stands in for a .zarray that is missing.
      holes_are_zero: whether a chunk that is missing means zeros. Otherwise it is damage.
    """

    driver: str
    kvstore: Mapping[str, Any]
    label: str
    assumed: Mapping[str, Any] | None = None
    holes_are_zero: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._store.shape)

    @property
    def dtype(self) -> np.dtype:
        return self._store.dtype.numpy_dtype

    @property
    def chunk_rows(self) -> int:
        chunk = self._store.chunk_layout.read_chunk.shape
        return int(chunk[0]) if self.shape and chunk else 1

    def read(self, start: int, stop: int) -> np.ndarray:
        store = self._store
        try:
            return np.asarray((store[start:stop] if self.shape else store).read().result())
        except ValueError as e:  # TensorStore knows no other
            raise UserError(f"{self.label} cannot be read ({_reason(e)})", "copy the checkpoint again") from e

    @functools.cached_property
    def _store(self) -> Any:
        import tensorstore

        spec: dict[str, Any] = {"driver": self.driver, "kvstore": dict(self.kvstore)}
        if not self.holes_are_zero:
            spec["fill_missing_data_reads"] = False
        try:
            return tensorstore.open(spec).result()
        except ValueError as e:
            if "NOT_FOUND" not in str(e):
                raise UserError(f"{self.label} is no {self.driver} array ({_reason(e)})", _AGAIN) from e
            if self.assumed is None:
                raise UserError(f"{self.label} does not say its shape: its .zarray is missing", _AGAIN) from e
        try:
            return tensorstore.open({**spec, **self.assumed, "assume_metadata": True}).result()
        except ValueError as e:
            raise UserError(f"{self.label} is no {self.driver} array ({_reason(e)})", _AGAIN) from e


def directory(path: pathlib.Path) -> dict[str, Any]:
    """The TensorStore kvstore of a directory."""
    return {"driver": "file", "path": f"{path.absolute()}/"}


def write_zarr(path: pathlib.Path, array: np.ndarray, metadata: Mapping[str, Any]) -> None:
    """Writes an array as a zarr directory.

    Args:
      path: the directory; it is made.
      array: bfloat16 is written as such.
      metadata: zarr's, shape and chunks included.

    Raises:
      UserError: the disk is full or read-only.
    """
    import tensorstore

    spec = {"driver": "zarr", "dtype": array.dtype.name, "kvstore": directory(path), "metadata": dict(metadata)}
    try:
        tensorstore.open(spec, create=True, open=True).result().write(array).result()
    except ValueError as e:
        raise cannot_write(path, OSError(0, _reason(e))) from e


def is_dtype(name: Any) -> bool:
    """Whether an index's `dtype` is one that arrays have."""
    return isinstance(name, str) and dtype_named(name) is not None


def _reason(error: ValueError) -> str:
    return str(error).split(" [", 1)[0].removeprefix("NOT_FOUND: ")[:200]
